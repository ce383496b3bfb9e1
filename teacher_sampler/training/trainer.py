"""Training a conditional GAN to be a teacher: hinge loss, projection discriminator, DiffAugment, EMA.

Sources: BigGAN (Brock et al. 2019); for continuous labels CcGAN (Ding et al. 2021).  Killed at any moment and called
again, the training ends with the same weights on a CPU.  Several ranks share each batch; the main one holds the EMA
and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from image_data.sources import ImageSource
from interfaces import LabelSpace, TeacherCard
from layers.batch_statistics import share_statistics
from layers.diffaugment import diff_augment
from layers.discriminators import DISCRIMINATORS
from layers.gan_losses import hinge_discriminator, hinge_generator, r1_penalty
from runtime.errors import UserError
from runtime.precision import passes
from runtime.ranks import ALONE, Ranks
from runtime.seeds import seed_step, torch_generator
from runtime.settings import as_json
from teacher_sampler.networks import TEACHERS
from teacher_sampler.training.batches import LabelledBatch, batch_drawer
from teacher_sampler.training.settings import TeacherSettings
from teacher_sampler.training.stats import spreads
from training.ema import ExponentialMovingAverage, accumulate_standing_statistics
from training.generator_folder import FOLDER, save_generator
from training.loop import Cadence, TrainingLoop, finish_training
from training.schedules import linear_decay, set_learning_rate
from training.state import NamedState

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # this rank's fakes, real images, and their labels


def train_teacher(
    data: ImageSource,
    label_space: LabelSpace,
    settings: TeacherSettings,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str],
    trained_on: dict[str, Any],
    ranks: Ranks = ALONE,
) -> Path:
    """Train on all of `data` and leave a teacher's folder at `out`; returns `out`.

    D: mean w_r max(0, 1 - D(x, y)) + mean w_g max(0, 1 + D(G(z, y), y)) + R1;  G: - mean D(G(z, y), y)
    (Lim and Ye 2017; the weights w are 1, or CcGAN's vicinal ones; R1 of Mescheder et al. 2018, eq. 9).

    A finished folder is returned at once, an unfinished one is continued.  UserError on settings that cannot work, and
    on divergence.
    """
    if FOLDER.finished(out):
        return out
    settings.check(allowed_augmentations)
    run = _Run(data, label_space, settings, device, ranks)
    state = NamedState(
        generator=run.generator,
        discriminator=run.discriminator,
        ema=run.ema,
        optimizer_g=run.optimizer_g,
        optimizer_d=run.optimizer_d,
    )
    cadence = Cadence(settings.log_every_steps, settings.checkpoint_every_steps)
    loop = TrainingLoop("teacher", out, settings.steps, state, cadence, ranks)
    for step in loop:
        decay = linear_decay(step, settings.lr_decay_from * settings.steps, settings.steps)
        set_learning_rate(run.optimizer_d, settings.lr_discriminator * decay)
        set_learning_rate(run.optimizer_g, settings.lr * decay)
        for turn in range(settings.discriminator_steps):
            figures, images = run.update_discriminator(step * settings.discriminator_steps + turn)
        loss_g = run.update_generator(step)
        if loop.log_due(step):
            loop.log(step, {"loss_g": loss_g, **figures}, **spreads(*images, ranks))
    if ranks.main:
        save_generator(out, run.card(allowed_augmentations, trained_on), run.finished_generator())
    finish_training(out, ranks)
    return out


class _Run:
    """The networks, optimisers and data of one training run."""

    def __init__(
        self, data: ImageSource, label_space: LabelSpace, settings: TeacherSettings, device: torch.device, ranks: Ranks
    ) -> None:
        self.data, self.label_space, self.settings, self.device, self.ranks = data, label_space, settings, device, ranks
        _, self.channels, self.resolution_px, width_px = data.images(np.array([0])).shape
        if width_px != self.resolution_px:
            raise UserError(f"training images are {self.resolution_px} x {width_px}; teachers need square ones.")
        s = settings
        self.policy = s.policy(len(data))
        self.drawer = batch_drawer(data.labels, label_space, s.batch_size, s.seed, s.vicinity, s.vicinity_gaps)
        seed_step(s.seed, "teacher-initial", 0)
        self.arguments = {"resolution_px": self.resolution_px, "channels": self.channels, **s.generator.arguments()}
        self.generator = TEACHERS.get(s.generator.name)(label_space, **self.arguments)
        self.latent_dim = int(self.generator.latent_dim)
        self.generator.to(device).to(memory_format=torch.channels_last)  # a third faster on the CPU
        self.discriminator = DISCRIMINATORS.build(
            s.discriminator, self.resolution_px, self.channels, label_space.kind, label_space.width
        )
        self.discriminator.to(device).to(memory_format=torch.channels_last)
        betas = (s.beta1, s.beta2)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=s.lr, betas=betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=s.lr_discriminator, betas=betas)
        self.ema = ExponentialMovingAverage(self.generator, s.ema_half_life_images)
        self.generator = share_statistics(self.generator, ranks, device)

    def update_discriminator(self, position: int) -> tuple[dict[str, torch.Tensor], Images]:
        """One step of D: hinge loss, and R1 where it has a weight.  Returns figures, and the images behind them."""
        self.generator.train()
        self.discriminator.train().requires_grad_(True)
        batch = self.drawer.discriminator(position).part(self.ranks)
        draws = torch_generator(self.settings.seed, "teacher-draws-d", position)
        real = self._real(batch)
        with torch.no_grad(), self._passes():
            fake = self.generator(self.ranks.part(self._latents(draws)), self._tensor(batch.fake)).float()
        images = diff_augment(torch.cat([real, fake]), self.policy, draws, self.ranks, groups=2)
        target = self._tensor(batch.target)
        penalised = self.settings.r1_weight > 0
        images.requires_grad_(penalised)
        with self._passes():
            # Fakes are judged at the label of the real image beside them: CcGAN's vicinal loss, with weights.
            logits = self.discriminator(images, torch.cat([target, target]))
        real_logits, fake_logits = logits.float().chunk(2)
        loss = hinge_discriminator(
            real_logits, fake_logits, self._tensor(batch.real_weights), self._tensor(batch.fake_weights)
        )
        total = loss
        if penalised:  # fakes add nothing: their logits do not enter, and logits are independent of one another
            total = loss + self.settings.r1_weight * 2.0 * r1_penalty(real_logits, images)
        self.optimizer_d.zero_grad(set_to_none=True)
        total.backward()
        self.ranks.average_gradients(self.discriminator.parameters())
        self.optimizer_d.step()
        figures = {"loss_d": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        return figures, (fake, real, target)

    def update_generator(self, position: int) -> torch.Tensor:
        """One step of G on - mean D(G(z, y)), and of its EMA; returns the loss."""
        # In eval mode the discriminator is fixed, its spectral vectors too (it has no batch norm).
        self.discriminator.eval().requires_grad_(False)
        draws = torch_generator(self.settings.seed, "teacher-draws-g", position)
        encoded = self._tensor(self.ranks.part(self.drawer.generator(position)))
        with self._passes():
            fake = self.generator(self.ranks.part(self._latents(draws)), encoded).float()
            logits = self.discriminator(diff_augment(fake, self.policy, draws, self.ranks), encoded)
        loss = hinge_generator(logits.float())
        self.optimizer_g.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.generator.parameters())
        self.optimizer_g.step()
        if self.ranks.main:
            self.ema.update(self.generator, self.settings.batch_size)
        return loss.detach()

    def finished_generator(self) -> nn.Module:
        """The EMA, with batch statistics that are its own."""

        def draw(index: int) -> tuple[torch.Tensor, ...]:
            draws = torch_generator(self.settings.seed, "teacher-standing", index)
            return self._latents(draws), self._tensor(self.drawer.generator(-1 - index))

        accumulate_standing_statistics(self.ema.module, draw, self.settings.standing_batches)
        return self.ema.module

    def card(self, allowed_augmentations: Sequence[str], trained_on: dict[str, Any]) -> TeacherCard:
        s = self.settings
        seen = s.steps * s.discriminator_steps * s.batch_size
        return TeacherCard(
            architecture=s.generator.name,
            arguments=self.arguments,
            resolution_px=self.resolution_px,
            channels=self.channels,
            label_space=self.label_space.to_json(),
            latent={"distribution": "normal", "dimension": self.latent_dim},
            truncation={},
            source_digest="",
            licence=str(trained_on.get("licence", "as the training data")),
            allowed_augmentations=list(allowed_augmentations),
            trained_on={
                **trained_on,
                "images": len(self.data),
                "images_seen": seen,
                "settings": {**as_json(s), "diffaugment": list(self.policy)},
            },
        )

    def _passes(self) -> AbstractContextManager[object]:
        return passes(self.settings.precision, self.device)

    def _latents(self, draws: torch.Generator) -> torch.Tensor:
        latents = torch.randn(self.settings.batch_size, self.latent_dim, generator=draws)
        return latents.to(self.device)

    def _real(self, batch: LabelledBatch) -> torch.Tensor:
        pixels = torch.from_numpy(self.data.images(batch.rows)).to(self.device)
        return pixels.float() / 127.5 - 1.0

    def _tensor(self, values: Any) -> Any:
        return None if values is None else torch.from_numpy(values).to(self.device)

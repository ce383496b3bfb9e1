"""Training a conditional GAN to be a teacher: hinge loss, projection discriminator, DiffAugment, averaged weights.

Killed at any moment and called again, it ends with the weights of an undisturbed run (on the CPU, to the bit).
Several ranks share each batch; the main one holds the average and writes.
"""

from __future__ import annotations

import math
import time
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
from runtime.progress import progress
from runtime.ranks import ALONE, Ranks
from runtime.seeds import seed_step, torch_generator
from runtime.settings import as_json
from teacher_sampler.networks import TEACHERS
from teacher_sampler.training.batches import LabelledBatch, batch_drawer
from teacher_sampler.training.settings import TeacherSettings
from teacher_sampler.training.stats import collapse_warning, spread_within_labels
from training.checkpoints import (
    CheckpointFolder,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
)
from training.ema import ExponentialMovingAverage, accumulate_standing_statistics
from training.generator_folder import CARD_FILE, save_generator
from training.stats_log import StatsLog

CHECKPOINT_SECONDS = 30.0


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

    A finished folder is returned at once, an unfinished one is continued.  UserError on settings that cannot work
    and on divergence.
    """
    if (out / CARD_FILE).exists():
        return out
    settings.check(allowed_augmentations)
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(data, label_space, settings, device, ranks)
    checkpoints = CheckpointFolder(out / "checkpoints")
    start = run.resume(checkpoints)
    ranks.begin(start, [run.generator, run.discriminator])
    log = StatsLog(out / "stats.jsonl", range(start + 1, settings.steps + 1), ranks.main)
    saved_at = time.monotonic()
    with progress("teacher", settings.steps, start) as bar:
        for step in range(start, settings.steps):
            entry = run.step(step, measure=(step + 1) % settings.log_every_steps == 0)
            if entry:
                log.write(entry)
            bar.advance(1, f"D {entry['loss_d']:.2f} G {entry['loss_g']:.2f}" if entry else "")
            late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if ranks.main and (late or (step + 1) % settings.checkpoint_every_steps == 0):
                run.save(checkpoints, step + 1)
                saved_at = time.monotonic()
    if ranks.main:
        card = run.card(allowed_augmentations, trained_on)
        save_generator(out, card, run.finished_generator())
        checkpoints.remove()
    ranks.wait()
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
        self.average = ExponentialMovingAverage(self.generator, s.ema_half_life_images)
        self.generator = share_statistics(self.generator, ranks, device)

    def step(self, step: int, measure: bool) -> dict[str, Any]:
        """All updates of one step; a line for the log where `measure` is set, else an empty dict."""
        s = self.settings
        decay = _lr_factor(step, s.steps, s.lr_decay_from)
        for optimizer, rate in ((self.optimizer_d, s.lr_discriminator), (self.optimizer_g, s.lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * decay
        self.generator.train()
        for turn in range(s.discriminator_steps):
            last = turn == s.discriminator_steps - 1
            entry = self._update_discriminator(step * s.discriminator_steps + turn, measure and last)
        loss = self._update_generator(step)
        if not measure:
            return {}
        entry = {"step": step + 1, "loss_g": float(self.ranks.mean({"loss_g": loss})["loss_g"]), **entry}
        if not all(math.isfinite(entry[name]) for name in ("loss_g", "loss_d")):
            raise UserError(f"teacher training diverged at step {step + 1}; lower lr and lr_discriminator.")
        return entry

    def _update_discriminator(self, position: int, measure: bool) -> dict[str, Any]:
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
        if not measure:
            return {}
        means = {"loss_d": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        labels = self.ranks.gather(self._tensor(batch.target)).cpu()
        spreads = [spread_within_labels(self.ranks.gather(images).cpu(), labels) for images in (fake, real)]
        warning = collapse_warning(*spreads)
        return {
            **{name: float(value.detach()) for name, value in self.ranks.mean(means).items()},
            "fake_spread": round(spreads[0], 4),
            "real_spread": round(spreads[1], 4),
            **({"warning": warning} if warning else {}),
        }

    def _update_generator(self, position: int) -> torch.Tensor:
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
            self.average.update(self.generator, self.settings.batch_size)
        return loss.detach()

    def finished_generator(self) -> nn.Module:
        """The averaged generator, with batch statistics that are its own."""

        def draw(index: int) -> tuple[torch.Tensor, ...]:
            draws = torch_generator(self.settings.seed, "teacher-standing", index)
            return self._latents(draws), self._tensor(self.drawer.generator(-1 - index))

        accumulate_standing_statistics(self.average.module, draw, self.settings.standing_batches)
        return self.average.module

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

    def save(self, checkpoints: CheckpointFolder, step: int) -> None:
        tensors = {
            **module_tensors("generator", self.generator),
            **module_tensors("discriminator", self.discriminator),
            **module_tensors("average", self.average.module),
            **optimizer_tensors("optimizer_g", self.optimizer_g),
            **optimizer_tensors("optimizer_d", self.optimizer_d),
        }
        checkpoints.save(step, tensors, {"images_seen": self.average.images_seen})

    def resume(self, checkpoints: CheckpointFolder) -> int:
        """Finished steps: 0 where there is no checkpoint."""
        found = checkpoints.load_latest()
        if found is None:
            return 0
        load_module("generator", self.generator, found.tensors)
        load_module("discriminator", self.discriminator, found.tensors)
        load_module("average", self.average.module, found.tensors)
        load_optimizer("optimizer_g", self.optimizer_g, found.tensors)
        load_optimizer("optimizer_d", self.optimizer_d, found.tensors)
        for optimizer in (self.optimizer_g, self.optimizer_d):
            _lay_out_like_parameters(optimizer)
        self.average.images_seen = found.scalars["images_seen"]
        return found.step

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


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments the memory format of their parameters, so that updates run as if never interrupted."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _lr_factor(step: int, steps: int, decay_from: float) -> float:
    """1 until `decay_from` of the steps, then linearly down to 0 at the end."""
    begin = decay_from * steps
    return 1.0 if step < begin else (steps - step) / max(steps - begin, 1.0)

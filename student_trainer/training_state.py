"""The networks of a student's training, their optimisers and the average: one visible step, saved and restored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from interfaces import LabelSpace
from interfaces.white_box import WhiteBoxTerms
from layers.batch_statistics import share_statistics
from layers.diffaugment import diff_augment
from layers.discriminators import DISCRIMINATORS
from layers.gan_losses import hinge_discriminator, hinge_generator, r1_penalty
from runtime.precision import passes
from runtime.seeds import seed_step, torch_generator
from student_trainer import losses
from student_trainer.data import Batch, StudentData
from student_trainer.networks import GENERATORS
from student_trainer.settings import StudentSettings
from training.checkpoints import CheckpointFolder, load_module, load_optimizer, module_tensors, optimizer_tensors
from training.ema import ExponentialMovingAverage, accumulate_standing_statistics


def network_arguments(
    settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int], latent_dim: int
) -> dict[str, Any]:
    """The constructor arguments of the student's network, as they go into its card.  image_shape: (C, H, W)."""
    return {
        "resolution_px": image_shape[1],
        "channels": image_shape[0],
        "latent_dim": latent_dim,
        "label_kind": label_space.kind,
        "label_width": label_space.width,
        **settings.generator.arguments(),
    }


def build_student(
    settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int], latent_dim: int
) -> nn.Module:
    """An untrained student of these settings, e.g. for `white_box.build_terms` or to count its parameters."""
    arguments = network_arguments(settings, label_space, image_shape, latent_dim)
    network: nn.Module = GENERATORS.get(settings.generator.name)(**arguments)
    return network


def build_discriminator(settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int]) -> Any:
    """An untrained discriminator of these settings.  image_shape: (C, H, W)."""
    return DISCRIMINATORS.build(
        settings.discriminator, image_shape[1], image_shape[0], label_space.kind, label_space.width
    )


@dataclass(frozen=True)
class _Game:
    """One adversarial game: true images against `made` ones for the same labels, weighted in D and in the student."""

    batch: Batch
    made: torch.Tensor
    weight: float
    student_weight: float


class TrainingState:
    """The networks, their optimisers and the average; one step at a time."""

    def __init__(self, data: StudentData, settings: StudentSettings, white_box: WhiteBoxTerms | None) -> None:
        self.data, self.settings, self.white_box, self.ranks = data, settings, white_box, data.ranks
        seed_step(settings.seed, "student-init", 0)
        self.student = build_student(settings, data.label_space, data.image_shape, data.latent_dim)
        self.student = self.student.to(data.device).to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.discriminator = build_discriminator(settings, data.label_space, data.image_shape)
        self.discriminator.to(data.device).to(memory_format=torch.channels_last)
        self.average = ExponentialMovingAverage(self.student, settings.ema_half_life_images)  # before any hook
        self.student = share_statistics(self.student, self.ranks, data.device)
        self.adapters = nn.Module()
        if white_box is not None:
            white_box.attach(self.student)
            if isinstance(white_box, nn.Module):
                self.adapters = white_box.to(data.device)
        betas = (settings.beta1, settings.beta2)
        trained = [*self.student.parameters(), *self.adapters.parameters()]
        self._trained = trained
        self.optimizer = torch.optim.Adam(trained, lr=settings.lr, betas=betas)
        self.optimizer_d = torch.optim.Adam(
            self.discriminator.parameters(),
            lr=settings.lr_discriminator,
            betas=(settings.beta1_discriminator, settings.beta2),
        )
        maps = len(self.discriminator.blocks)
        self.map_weights = losses.feature_weights(maps)

    def train_step(self, step: int) -> dict[str, torch.Tensor]:
        """One step of the student, after one of the discriminator where it is its turn; returns the raw terms."""
        settings = self.settings
        seed_step(settings.seed, self.ranks.purpose("student-step"), step)
        part = (step + 1) / settings.steps
        factor = losses.learning_rate_factor(part, settings.warmup_fraction, settings.lr_decay_from)
        self.optimizer.param_groups[0]["lr"] = settings.lr * factor
        pair = self.data.pair_batch(step)
        with self._passes():
            made = self.student(pair.latents, pair.encoded).float()
            white = {} if self.white_box is None else self.white_box(pair.latents, pair.encoded)
        terms = {"pixel": losses.pixel_l1(made, pair.images)}
        weights = {"pixel": losses.pixel_weight(
            step / settings.steps, settings.pixel_weight, settings.pixel_floor, settings.pixel_decay_until
        )}  # fmt: skip
        scalars: dict[str, torch.Tensor] = {}
        if step >= settings.adversarial_from * settings.steps and (step + 1) % settings.discriminator_every == 0:
            turn = (step + 1) // settings.discriminator_every
            adversarial = turn % settings.adversarial_every == 0
            games = self._games(step, pair, made, adversarial)
            scalars = self._discriminator_step(step, turn, games)
            self.discriminator.requires_grad_(False)
            terms |= self._feature_term(pair, made)
            weights["feature"] = settings.feature_weight
            if adversarial:
                terms |= self._adversarial_terms(step, games)
                weights |= {f"adversarial_{name}": game.student_weight for name, game in games.items()}
        used = [weights[name] * value for name, value in terms.items() if weights[name] > 0]
        loss = torch.stack([*used, *white.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self._trained)
        self.optimizer.step()
        self.discriminator.requires_grad_(True)
        if self.ranks.main:
            self.average.update(self.student, settings.batch_size)
        return {"loss": loss.detach(), **scalars, **_detached(terms), **_detached(white)}

    def _games(self, step: int, pair: Batch, made: torch.Tensor, adversarial: bool) -> dict[str, _Game]:
        settings = self.settings
        games = {"pair": _Game(pair, made, settings.discriminator_pair_weight, settings.adversarial_weight)}
        if settings.discriminator_unpaired_weight > 0:
            fresh = self.data.fresh_batch(step)
            with torch.set_grad_enabled(adversarial and settings.adversarial_unpaired_weight > 0), self._passes():
                made_fresh = self.student(fresh.latents, fresh.encoded).float()
            games["fresh"] = _Game(
                fresh, made_fresh, settings.discriminator_unpaired_weight, settings.adversarial_unpaired_weight
            )
        return games

    def _passes(self) -> AbstractContextManager[object]:
        return passes(self.settings.precision, self.data.device)

    def _augmented(self, batches: Sequence[torch.Tensor], purpose: str, step: int) -> torch.Tensor:
        """Batches joined end to end, each image with its own draws."""
        generator = torch_generator(self.settings.seed, purpose, step)
        return diff_augment(torch.cat([*batches]), self.settings.diffaugment, generator, self.ranks, len(batches))

    def _judged(self, images: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """float32 logits of D."""
        with self._passes():
            return self.discriminator(images, encoded).float()

    def _discriminator_step(self, step: int, turn: int, games: dict[str, _Game]) -> dict[str, torch.Tensor]:
        """Hinge loss of the games in one pass (no image's logit depends on another image's)."""
        settings = self.settings
        played = {name: game for name, game in games.items() if game.weight > 0}
        if not played:
            return {}
        true = [game.batch.images for game in played.values()]
        made = [game.made.detach() for game in played.values()]
        images = self._augmented([*true, *made], "student-augment-d", step)
        logits = self._judged(images, torch.cat([game.batch.encoded for game in played.values()] * 2))
        parts = logits.chunk(2 * len(played))
        terms = [
            game.weight * hinge_discriminator(parts[index], parts[index + len(played)])
            for index, game in enumerate(played.values())
        ]
        loss = torch.stack(terms).sum()
        if settings.r1_weight > 0 and turn % settings.r1_every == 0:
            batch = next(iter(played.values())).batch
            slope_at = self._augmented([batch.images], "student-augment-r1", step).requires_grad_(True)
            penalty = r1_penalty(self._judged(slope_at, batch.encoded), slope_at)
            loss = loss + settings.r1_weight * settings.r1_every * penalty
        self.optimizer_d.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.discriminator.parameters())
        self.optimizer_d.step()
        true_logits = {f"d_true_{name}": part.detach().mean() for name, part in zip(played, parts, strict=False)}
        return {"discriminator": loss.detach(), **true_logits}

    def _feature_term(self, pair: Batch, made: torch.Tensor) -> dict[str, torch.Tensor]:
        """Distance in D's features; images are not augmented here, so that a pair stays a pair."""
        if self.settings.feature_weight == 0:
            return {}
        with self._passes():
            with torch.no_grad():
                target = [found.float() for found in self.discriminator.features(pair.images)]
            mine = [found.float() for found in self.discriminator.features(made)]
        return {"feature": losses.feature_l1(mine, target, self.map_weights)}

    def _adversarial_terms(self, step: int, games: dict[str, _Game]) -> dict[str, torch.Tensor]:
        played = {name: game for name, game in games.items() if game.student_weight > 0}
        if not played:
            return {}
        images = self._augmented([game.made for game in played.values()], "student-augment-g", step)
        logits = self._judged(images, torch.cat([game.batch.encoded for game in played.values()]))
        parts = logits.chunk(len(played))
        return {f"adversarial_{name}": hinge_generator(part) for name, part in zip(played, parts, strict=True)}

    def begin(self, folder: CheckpointFolder) -> int:
        """Load the newest checkpoint, equally on all ranks; returns how many steps are done."""
        done = self.restore(folder)
        self.ranks.begin(done, [self.student, self.discriminator, self.adapters])
        return done

    def finish(self) -> nn.Module:
        """The averaged student with batch-norm statistics of its own."""
        if self.white_box is not None and hasattr(self.white_box, "close"):
            self.white_box.close()
        accumulate_standing_statistics(self.average.module, self.data.standing_inputs, self.settings.standing_batches)
        return self.average.module.eval()

    def save(self, folder: CheckpointFolder, done: int) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for name, module in self._modules().items():
            tensors |= module_tensors(name, module)
        tensors |= optimizer_tensors("optimizer", self.optimizer)
        tensors |= optimizer_tensors("optimizer_d", self.optimizer_d)
        folder.save(done, tensors, {"average_images_seen": self.average.images_seen})

    def restore(self, folder: CheckpointFolder) -> int:
        """Load the newest checkpoint; returns how many steps are done."""
        found = folder.load_latest()
        if found is None:
            return 0
        for name, module in self._modules().items():
            load_module(name, module, found.tensors)
        load_optimizer("optimizer", self.optimizer, found.tensors)
        load_optimizer("optimizer_d", self.optimizer_d, found.tensors)
        self.average.images_seen = found.scalars["average_images_seen"]
        return found.step

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "student": self.student,
            "discriminator": self.discriminator,
            "average": self.average.module,
            "adapters": self.adapters,
        }


def _detached(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in terms.items()}

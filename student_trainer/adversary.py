"""The discriminator of a student's training: its own step, and the terms that the student gets from it.

D compares true images with generated ones of the same labels: on pairs the teacher's stored image and the student's
of the same (z, y); on unpaired z real images (else teacher images) and the student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from layers.diffaugment import diff_augment
from layers.gan_losses import hinge_discriminator, hinge_generator, r1_penalty
from runtime.precision import passes
from runtime.seeds import torch_generator
from student_trainer import losses
from student_trainer.data import Batch, StudentData
from student_trainer.settings import StudentSettings

Term = tuple[float, torch.Tensor]  # a term of the student's loss: weight and value


@dataclass(frozen=True)
class AdversarialBatch:
    """True images with their latents and labels, the student's images for the same labels, and two weights."""

    true: Batch
    generated: torch.Tensor
    weight: float  # in D's loss
    student_weight: float  # in the student's loss


class Adversary:
    """D, its optimiser, and what it says of batches by name ("pair", "unpaired")."""

    def __init__(self, discriminator: Any, data: StudentData, settings: StudentSettings) -> None:
        self.discriminator, self.settings, self.ranks, self.device = discriminator, settings, data.ranks, data.device
        betas = (settings.beta1_discriminator, settings.beta2)
        self.optimizer = torch.optim.Adam(discriminator.parameters(), lr=settings.lr_discriminator, betas=betas)
        self._map_weights = losses.feature_weights(len(discriminator.blocks))

    def train(self, step: int, turn: int, batches: dict[str, AdversarialBatch]) -> dict[str, torch.Tensor]:
        """One step of D on all batches in one pass (no image's logit depends on another image's)."""
        batches = {name: batch for name, batch in batches.items() if batch.weight > 0}
        if not batches:
            return {}
        true = [batch.true.images for batch in batches.values()]
        generated = [batch.generated.detach() for batch in batches.values()]
        images = self._augmented([*true, *generated], "student-augment-d", step)
        logits = self._logits(images, torch.cat([batch.true.encoded for batch in batches.values()] * 2))
        parts = logits.chunk(2 * len(batches))
        terms = [
            batch.weight * hinge_discriminator(parts[index], parts[index + len(batches)])
            for index, batch in enumerate(batches.values())
        ]
        loss = torch.stack(terms).sum()
        if self.settings.r1_weight > 0 and turn % self.settings.r1_every == 0:
            # Lazy regularisation (Karras et al. 2020, section 3.1): every n-th step, n times as strong.
            first = next(iter(batches.values())).true
            slope_at = self._augmented([first.images], "student-augment-r1", step).requires_grad_(True)
            penalty = r1_penalty(self._logits(slope_at, first.encoded), slope_at)
            loss = loss + self.settings.r1_weight * self.settings.r1_every * penalty
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.discriminator.parameters())
        self.optimizer.step()
        true_logits = {f"d_true_{name}": part.detach().mean() for name, part in zip(batches, parts, strict=False)}
        return {"discriminator": loss.detach(), **true_logits}

    def feature_term(self, pair: Batch, generated: torch.Tensor) -> dict[str, Term]:
        """Distance in D's features; images are not augmented here, so that a pair stays a pair."""
        if self.settings.feature_weight == 0:
            return {}
        with self._passes():
            with torch.no_grad():
                teacher = [maps.float() for maps in self.discriminator.features(pair.images)]
            student = [maps.float() for maps in self.discriminator.features(generated)]
        return {"feature": (self.settings.feature_weight, losses.feature_l1(student, teacher, self._map_weights))}

    def adversarial_terms(self, step: int, batches: dict[str, AdversarialBatch]) -> dict[str, Term]:
        """- mean D(S(z, y)) of each batch that has a weight in the student's loss."""
        batches = {name: batch for name, batch in batches.items() if batch.student_weight > 0}
        if not batches:
            return {}
        images = self._augmented([batch.generated for batch in batches.values()], "student-augment-g", step)
        logits = self._logits(images, torch.cat([batch.true.encoded for batch in batches.values()]))
        return {
            f"adversarial_{name}": (batch.student_weight, hinge_generator(part))
            for (name, batch), part in zip(batches.items(), logits.chunk(len(batches)), strict=True)
        }

    def _augmented(self, batches: Sequence[torch.Tensor], purpose: str, step: int) -> torch.Tensor:
        """Batches joined end to end, each image with its own draws."""
        generator = torch_generator(self.settings.seed, purpose, step)
        return diff_augment(torch.cat([*batches]), self.settings.diffaugment, generator, self.ranks, len(batches))

    def _logits(self, images: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        with self._passes():
            return self.discriminator(images, encoded).float()

    def _passes(self) -> AbstractContextManager[object]:
        return passes(self.settings.precision, self.device)

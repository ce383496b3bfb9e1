"""What a student learns from: pairs, real images, unpaired latents; each step's batches from its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from image_data.augment import check_augmentations
from image_data.batches import BatchOrder
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks
from runtime.seeds import numpy_generator, torch_generator
from student_trainer.settings import StudentSettings


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1], latents and encoded labels of one batch, on the device."""

    images: torch.Tensor
    latents: torch.Tensor
    encoded: torch.Tensor
    index: torch.Tensor | None = None  # int64 N: which of the training's pairs


class StudentData:
    """Checks the sources once, splits off the held-out pairs, and makes each step's batches from its number."""

    def __init__(
        self,
        pairs: ImageSource,
        real: ImageSource | None,
        label_space: LabelSpace,
        settings: StudentSettings,
        device: torch.device,
        allowed_augmentations: Sequence[str],
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.pairs, self.real, self.label_space, self.settings, self.device = pairs, real, label_space, settings, device
        self.allowed_augmentations = check_augmentations(allowed_augmentations, "train-student")
        self.latent_dim, self.image_shape = check_pairs(pairs, label_space)
        if real is not None:
            check_real(real, label_space, self.image_shape)
        order = numpy_generator(settings.seed, "student-holdout").permutation(len(pairs))
        held = min(settings.holdout_max, int(len(pairs) * settings.holdout_fraction))
        self.held_out, self.kept = np.sort(order[:held]), np.sort(order[held:])
        self._pair_order = BatchOrder(len(self.kept), settings.batch_size, settings.seed, "student-pairs")
        others = len(self.kept) if real is None else len(real)
        self._other_order = BatchOrder(others, settings.batch_size, settings.seed, "student-fresh")

    def pair_batch(self, step: int) -> Batch:
        """Teacher images with their own latents: this rank's part of the step's batch."""
        index = self.ranks.part(self._pair_order.rows(step))
        return replace(self.read_pairs(self.kept[index]), index=torch.from_numpy(index).to(self.device))

    def read_pairs(self, rows: np.ndarray) -> Batch:
        latents = self.pairs.latents(rows)
        if latents is None:
            raise UserError("train-student: the fakes have no latents; sample them again with latents stored.")
        encoded = self.label_space.encode(self.pairs.asked_labels(rows)).to(self.device)
        return Batch(self._images(self.pairs, rows), torch.from_numpy(latents).to(self.device), encoded)

    def unpaired_batch(self, step: int) -> Batch:
        """Real images (teacher images where there are none), with unpaired latents beside them: this rank's part.

        Real images are not augmented: a student would learn to make shifted images.  DiffAugment, which changes true
        and made images alike, takes that place.
        """
        rows = self.ranks.part(self._other_order.rows(step))
        source = self.real
        if source is None:
            source, rows = self.pairs, self.kept[rows]
        encoded = self.label_space.encode(source.asked_labels(rows)).to(self.device)
        images = self._images(source, rows)
        return Batch(images, self.ranks.part(self.unpaired_latents("student-latents", step)), encoded)

    def unpaired_latents(self, purpose: str, index: int) -> torch.Tensor:
        """Standard normals times the truncation for a whole batch, a pure function of (seed, purpose, index)."""
        generator = torch_generator(self.settings.seed, purpose, index)
        normals = torch.randn(self.settings.batch_size, self.latent_dim, generator=generator)
        return (normals * (self.settings.truncation or 1.0)).to(self.device)

    def standing_inputs(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Unpaired latents and labels of the pairs, for the batch-norm statistics."""
        rows = self.kept[numpy_generator(self.settings.seed, "student-standing", index).integers(
            len(self.kept), size=self.settings.batch_size
        )]  # fmt: skip
        encoded = self.label_space.encode(self.pairs.asked_labels(rows)).to(self.device)
        return self.unpaired_latents("student-standing-latents", index), encoded

    def _images(self, source: ImageSource, rows: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(source.images(rows))).to(self.device)
        images = pixels.float().div_(127.5).sub_(1.0)
        return images.contiguous(memory_format=torch.channels_last)


def check_pairs(pairs: ImageSource, label_space: LabelSpace) -> tuple[int, tuple[int, int, int]]:
    """(latent dimension, (C, H, W)) of the pairs; a UserError where they cannot teach a student."""
    if len(pairs) < 2:
        raise UserError(f"train-student: {len(pairs)} fakes are too few; sample more.")
    label_space.check(pairs.labels, "train-student, the fakes")
    first = np.array([0], dtype=np.int64)
    latents = pairs.latents(first) if pairs.has_latents else None
    if latents is None:
        raise UserError(
            "train-student: the fakes have no latents, and a student copies (latents, label) -> image; "
            "sample them again from a teacher with latents, and store these."
        )
    if latents.ndim != 2 or not np.isfinite(latents).all():
        raise UserError(f"train-student: latents must be finite and N x z, not of shape {latents.shape}.")
    return int(latents.shape[1]), _image_shape(pairs, "the fakes")


def check_real(real: ImageSource, label_space: LabelSpace, image_shape: tuple[int, int, int]) -> None:
    """UserError where the real images do not go with the fakes."""
    if len(real) < 1:
        raise UserError("train-student: there are no real images; leave the real data out or give some.")
    label_space.check(real.labels, "train-student, the real images")
    shape = _image_shape(real, "the real images")
    if shape != image_shape:
        raise UserError(
            f"train-student: real images are {shape}, fakes {image_shape} (channels, height, width); "
            "load the real images at the size of the fakes."
        )


def _image_shape(source: ImageSource, name: str) -> tuple[int, int, int]:
    images = source.images(np.array([0], dtype=np.int64))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise UserError(
            f"train-student: {name} must be square, uint8 and N x C x H x W, but are {images.dtype} {images.shape}."
        )
    return int(images.shape[1]), int(images.shape[2]), int(images.shape[3])

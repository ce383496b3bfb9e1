"""The product of loading: train and validation images in memory, and a test set that counts how often it is opened."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from image_data.augment import check_augmentations
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.roles import leave_out_duplicates, rows_per_class
from image_data.seen import Seen
from image_data.sources import ArraySource
from runtime.digests import digest_of
from runtime.errors import UserError

_HISTOGRAM_BINS = 10


@dataclass(frozen=True, eq=False)
class RealData:
    """A real dataset with its roles.  Pixels are uint8 N x C x H x W, labels are in the user's units.

    `digest` names pixels, labels and membership of train and validation (what training may see), `test_digest` those of
    the test images.  These are reached by `open_test` only, which counts: a report can say how often the test set was
    looked at.  No image is in two roles: `remarks` says what was left out, and what else a user should know.
    """

    name: str
    label_space: ClassLabels | ContinuousLabels
    resolution_px: int
    channels: int
    allowed_augmentations: tuple[str, ...]
    train: ArraySource
    val: ArraySource
    digest: str
    test_digest: str
    notes: dict[str, Any]  # how the images came about: file, resizing, fold, seed
    remarks: tuple[str, ...]
    _test: ArraySource = field(repr=False)
    _opened: list[int] = field(default_factory=lambda: [0], repr=False)

    def open_test(self) -> ArraySource:
        """The test images; for the end of an experiment."""
        self._opened[0] += 1
        return self._test

    def hashes(self, role: Literal["train", "val", "test"]) -> np.ndarray:
        """uint64: the names by content of a role's images, in order (`image_data.seen`); the test set stays shut."""
        hashes = {"train": self.train, "val": self.val, "test": self._test}[role].hashes
        if hashes is None:
            raise ValueError(f"the {role} images have no hashes; make the data with `assemble`")
        return hashes

    def seen_by(self, part: str, train: bool = True, val: bool = True) -> Seen:
        """What a part has seen that is fitted on the training images and selected on the validation images."""
        return Seen.of(part, train=self.hashes("train") if train else None, val=self.hashes("val") if val else None)

    @property
    def test_opened(self) -> int:
        """How often `open_test` was called on this object."""
        return self._opened[0]

    def histogram(self) -> str:
        """One line for each role: how many images each label (or range of labels) has."""
        roles = {"train": self.train, "val": self.val, "test": self._test}
        return "\n".join(f"{role:<5} {len(source):>6}  {self._counts(source)}" for role, source in roles.items())

    def describe(self) -> dict[str, Any]:
        """JSON for cards and reports: name, shape, label space, counts, digest and notes."""
        return {
            "name": self.name,
            "resolution_px": self.resolution_px,
            "channels": self.channels,
            "label_space": self.label_space.to_json(),
            "allowed_augmentations": list(self.allowed_augmentations),
            "images": {"train": len(self.train), "val": len(self.val), "test": len(self._test)},
            "digest": self.digest,
            "test_digest": self.test_digest,
            "test_opened": self.test_opened,
            **self.notes,
        }

    def _counts(self, source: ArraySource) -> str:
        if isinstance(self.label_space, ClassLabels):
            counts = np.bincount(source.labels.astype(np.int64), minlength=self.label_space.width)
            return "  ".join(f"{name}: {count}" for name, count in zip(self.label_space.names, counts, strict=True))
        space = self.label_space
        values = source.labels if source.labels.ndim == 1 else source.labels[:, 0]
        counts, edges = np.histogram(values, bins=_HISTOGRAM_BINS, range=(space.low, space.high))
        spans = itertools.pairwise(edges)
        bins = "  ".join(f"{low:g}..{high:g}: {count}" for (low, high), count in zip(spans, counts, strict=True))
        return f"{bins} {space.unit}".rstrip()


def assemble(
    name: str,
    label_space: ClassLabels | ContinuousLabels,
    roles: dict[str, ArraySource],
    allowed_augmentations: Sequence[str],
    real_per_class: int | None,
    seed: int,
    notes: dict[str, Any],
    remarks: Sequence[str] = (),
) -> RealData:
    """Check all labels, part equal images, cut the training images to `real_per_class`, and name the contents."""
    allowed = check_augmentations(allowed_augmentations, name)
    for role, source in roles.items():
        check_role(source, label_space, f"{name} ({role})")
    roles, doubles = leave_out_duplicates(roles, name)
    roles = {role: replace(source, names=None) for role, source in roles.items()}
    train = roles["train"]
    check_spread(train.labels, label_space, name)
    if real_per_class is not None:
        train = train.subset(rows_per_class(train.labels, real_per_class, seed, name))
        notes = {**notes, "real_per_class": real_per_class, "real_per_class_seed": seed}
    digest = digest_of(
        {
            "train": source_digest(train),
            "val": source_digest(roles["val"]),
            "label_space": label_space.to_json(),
        }
    )
    return RealData(
        name=name,
        label_space=label_space,
        resolution_px=int(train.pixels.shape[-1]),
        channels=int(train.pixels.shape[1]),
        allowed_augmentations=allowed,
        train=train,
        val=roles["val"],
        digest=digest,
        test_digest=source_digest(roles["test"]),
        notes=notes,
        remarks=(*remarks, *doubles),
        _test=roles["test"],
    )


def check_role(source: ArraySource, label_space: ClassLabels | ContinuousLabels, where: str) -> None:
    """UserError where pixels or labels are not what a role must hold."""
    pixels = source.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
        raise UserError(
            f"{where}: images must be square, uint8 and N x C x H x W, but are {pixels.dtype} {pixels.shape}."
        )
    if len(pixels) == 0:
        raise UserError(f"{where}: there are no images; give this part at least one.")
    if len(source.labels) != len(pixels):
        raise UserError(f"{where}: {len(pixels)} images have {len(source.labels)} labels; give each image one label.")
    label_space.check(source.labels, where)


def check_spread(labels: np.ndarray, label_space: ClassLabels | ContinuousLabels, where: str) -> None:
    """UserError for one value only, or fewer than 2 training images of a class.

    One class is a valid set of classes; what has to tell classes apart refuses it (`label_meeting`).
    """
    if isinstance(label_space, ContinuousLabels):
        if len(np.unique(labels, axis=0)) < 2:
            raise UserError(f"{where}: all training labels are the same value; check the label column.")
        return
    counts = Counter(labels.tolist())
    if len(counts) < 2 <= label_space.width:
        raise UserError(f"{where}: all training labels are {labels[0]}; check how the labels were made.")
    for index, class_name in enumerate(label_space.names):
        if counts[index] < 2:
            raise UserError(
                f"{where}: class {class_name!r} has {counts[index]} training images; give each class at least 2 or "
                'leave it out, or state {"label_kind": "continuous"} where labels are values.'
            )


def source_digest(source: ArraySource) -> str:
    """SHA-256 (hex) of shapes, pixels and labels of one role."""
    total = hashlib.sha256()
    for array in (source.pixels, source.labels):
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str}|{array.shape}|".encode())
        total.update(array.data)
    return total.hexdigest()

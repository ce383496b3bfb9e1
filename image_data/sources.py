"""What trainers read: labelled uint8 images by row number, from memory, from a mapped fake dataset, or from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ImageSource(Protocol):
    """`labels` (user's units, length N) and `images(rows)` -> uint8 len(rows) x C x H x W.

    A source whose fakes carry latents also offers `latents(rows)` -> float32 len(rows) x z, and one whose rows do not
    count alike `weights`, float32 N (`row_weights`).
    """

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def images(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ArraySource:
    """Images held in memory: uint8 N x C x H x W and their labels.

    Real images also have `hashes`, uint64 N, their names by content (`image_data.seen`), and while they are being
    loaded `names`, what a user calls each of them: a file's path or "row 17 of train".
    """

    pixels: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]

    def subset(self, rows: np.ndarray) -> ArraySource:
        """A copy of some rows."""
        hashes = None if self.hashes is None else self.hashes[rows]
        names = None if self.names is None else [self.names[row] for row in np.arange(len(self))[rows]]
        return ArraySource(self.pixels[rows], self.labels[rows], hashes, names)


def row_weights(source: ImageSource) -> np.ndarray | None:
    """How much each row counts in a training loss, float32 N; None where all count alike."""
    found: np.ndarray | None = getattr(source, "weights", None)
    return found


class Concatenation:
    """Several sources, one behind the other (cGAN-KD's mixing rule: real and fake, concatenated and shuffled)."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])
        self.labels = np.concatenate([source.labels for source in self._sources])
        weights = [row_weights(source) for source in self._sources]
        self.weights: np.ndarray | None = None
        if any(found is not None for found in weights):  # rows without a weight of their own count once
            parts = zip(weights, self._sources, strict=True)
            self.weights = np.concatenate(
                [np.ones(len(source), dtype=np.float32) if found is None else found for found, source in parts]
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def images(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        owner = np.searchsorted(self._ends, rows, side="right")
        out: np.ndarray | None = None
        for index, source in enumerate(self._sources):
            mine = np.flatnonzero(owner == index)
            if not len(mine):
                continue
            start = int(self._ends[index]) - len(source)
            found = source.images(rows[mine] - start)
            if out is None:
                out = np.empty((len(rows), *found.shape[1:]), dtype=np.uint8)
            out[mine] = found
        if out is None:
            raise IndexError("no rows were asked for")
        return out

"""What trainers read: labelled uint8 images by row number, from memory, from a mapped fake dataset, or from several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from image_data.batches import BatchOrder, RatioOrder


class ImageSource(ABC):
    """Labelled images by row number; a source overrides what it can do beyond `images`."""

    weights: np.ndarray | None = None  # float32 N, how much each row counts in a training loss; None: all alike
    on_disk = False  # whether `expect` has an effect

    if TYPE_CHECKING:  # at run time a dataclass would take the property for its field's default

        @property
        def labels(self) -> np.ndarray:
            """N labels to train on, in the user's units."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, rows: np.ndarray) -> np.ndarray:
        """uint8 len(rows) x C x H x W."""

    def pieces(self) -> list[tuple[ImageSource, np.ndarray]]:
        """The sources that hold the images themselves, in order, each with the rows of it that stand here."""
        return [(self, np.arange(len(self)))]

    @property
    def has_latents(self) -> bool:
        """Whether `latents` works."""
        return False

    def latents(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 len(rows) x z: the latents that the images were generated from."""
        return None

    def asked_labels(self, rows: np.ndarray) -> np.ndarray:
        """The labels asked of the teacher that generated these images, also where `labels` replaces them."""
        return self.labels[rows]

    def expect(self, rows: np.ndarray) -> None:  # noqa: B027 - images in memory need no reading ahead
        """Ask the operating system to begin reading these rows' images from the disk; does not wait."""

    def batches(self, batch_size: int, seed: int, purpose: str) -> BatchOrder:
        """The rows of each step of a training."""
        return BatchOrder(len(self), batch_size, seed, purpose)


@dataclass(frozen=True)
class ArraySource(ImageSource):
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


class Concatenation(ImageSource):
    """Several sources, one behind the other (cGAN-KD's mixing rule: real and fake, concatenated and shuffled)."""

    labels: np.ndarray

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])
        self.labels = np.concatenate([source.labels for source in self._sources])
        if any(source.weights is not None for source in self._sources):
            ones = [np.ones(len(source), dtype=np.float32) for source in self._sources]
            self.weights = np.concatenate(
                [
                    one if source.weights is None else source.weights
                    for one, source in zip(ones, self._sources, strict=True)
                ]
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pieces(self) -> list[tuple[ImageSource, np.ndarray]]:
        return [piece for source in self._sources for piece in source.pieces()]

    def images(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        owner = np.searchsorted(self._ends, rows, side="right")
        out: np.ndarray | None = None
        for index, source in enumerate(self._sources):
            places = np.flatnonzero(owner == index)
            if not len(places):
                continue
            start = int(self._ends[index]) - len(source)
            images = source.images(rows[places] - start)
            if out is None:
                out = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
            out[places] = images
        if out is None:
            raise IndexError("no rows were asked for")
        return out


class BatchRatio(Concatenation):
    """Real images and fakes, of which every batch has a fixed share of real ones, in (0, 1)."""

    def __init__(self, real: ImageSource, fakes: ImageSource, real_share: float) -> None:
        super().__init__([real, fakes])
        self._counts, self.real_share = (len(real), len(fakes)), real_share

    def batches(self, batch_size: int, seed: int, purpose: str) -> BatchOrder:
        return RatioOrder(*self._counts, self.real_share, batch_size, seed, purpose)

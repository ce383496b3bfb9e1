"""What trainers see of a fake dataset: all rows or a selection, as an ImageSource and as a torch dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch.utils.data import Dataset

from image_data.sources import ImageSource
from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.fake.dataset import FakeDataset

Item = tuple[Any, torch.Tensor]
Transform = Callable[[torch.Tensor], Any]
_READ_AHEAD = 256  # images that iteration reads at once


class FakeView(ImageSource, Dataset[Item]):
    """`labels`, `images(rows)`, `latents(rows)` over the chosen rows; items are (uint8 C x H x W, label) tensors.

    Of an item `transform` changes the image; `images` and `latents` stay as they are stored.  A slice is a view again.
    Nothing is copied.  Picklable, and safe in DataLoader workers under fork, forkserver and spawn.
    """

    on_disk = True

    def __init__(
        self,
        fakes: FakeDataset,
        rows: np.ndarray | None,
        labels: np.ndarray | None,
        weights: np.ndarray | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.fakes = fakes
        self.rows = rows
        self.transform = transform
        self.weights = weights
        self._labels = labels

    @property
    def labels(self) -> np.ndarray:
        """Labels to train on, in the user's units: the selection's (perhaps replaced) ones, or those asked for."""
        return self.fakes.labels if self._labels is None else self._labels

    @property
    def has_latents(self) -> bool:
        return self.fakes.has_latents

    def __len__(self) -> int:
        return len(self.fakes) if self.rows is None else len(self.rows)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.fakes.images(self._translate(rows))

    def expect(self, rows: np.ndarray) -> None:
        self.fakes.expect(self._translate(rows))

    def latents(self, rows: np.ndarray) -> np.ndarray:
        """float32 len(rows) x z; UserError where the dataset was sampled without latents."""
        latents = self.fakes.latents(self._translate(rows))
        if latents is None:
            raise UserError(f"{self.fakes.path} holds no latents; sample again with latents stored.")
        return latents

    def pieces(self) -> list[tuple[ImageSource, np.ndarray]]:
        return [(self.fakes, np.arange(len(self.fakes)) if self.rows is None else self.rows)]

    def asked_labels(self, rows: np.ndarray) -> np.ndarray:
        return self.fakes.labels[self._translate(rows)]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> FakeView: ...
    def __getitem__(self, index: int | slice) -> Item | FakeView:
        if isinstance(index, slice):
            return self._part(np.arange(len(self))[index])
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Many items at once (torch's DataLoader asks in this way)."""
        rows = np.asarray(indices, dtype=np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        images = torch.from_numpy(self.images(rows))
        labels = torch.from_numpy(np.ascontiguousarray(self.labels[rows]))
        shown = images if self.transform is None else map(self.transform, images)
        return list(zip(shown, labels, strict=True))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), _READ_AHEAD):
            yield from self.__getitems__(range(start, min(start + _READ_AHEAD, len(self))))

    def _part(self, places: np.ndarray) -> FakeView:
        rows = places if self.rows is None else self.rows[places]
        weights = None if self.weights is None else self.weights[places]
        return FakeView(self.fakes, rows, self.labels[places], weights, self.transform)

    def _translate(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        if self.rows is None:
            return rows
        if rows.size and rows.min() < 0:
            raise IndexError(f"row {rows.min()} of a view of {len(self)}")
        return self.rows[rows]

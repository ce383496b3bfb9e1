"""The rows of an export: images in blocks, and beside each image what is known of it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from image_data.fake.view import FakeView
from interfaces import LabelSpace
from runtime.progress import Progress, progress

_BLOCK_BYTES = 16 << 20
_SHARD_BYTES = 256 << 20
_MOST_ROWS = 8192  # of a block: an image costs some hundred bytes beside its pixels
_SAMPLED = 64  # images whose size as PNG is measured


@dataclass(frozen=True)
class Block:
    """Rows `start`, `start + 1`, ... of an export: uint8 n x C x H x W, and n values of each column."""

    start: int
    images: np.ndarray
    columns: dict[str, np.ndarray]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, dict[str, Any]]]:
        """(row, image, its values by column) of each."""
        values = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        records = (dict(zip(self.columns, row, strict=True)) for row in values)
        return zip(range(self.start, self.start + len(self.images)), self.images, records, strict=True)


class ExportRows:
    """The rows of a view in the order of the export; `order` int64 N, or None for that of the view."""

    def __init__(self, view: FakeView, order: np.ndarray | None = None) -> None:
        self.view = view
        self.order = np.arange(len(view)) if order is None else order
        self.label_space: LabelSpace = view.fakes.label_space

    def __len__(self) -> int:
        return len(self.order)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.view.fakes.image_shape

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by class index; None for continuous labels."""
        names = self.label_space.to_json().get("names")
        return None if names is None else tuple(names)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What is known of each row, each of length N.

        `label` as in the view; `asked_label` of the teacher, where a predictor has replaced some; `row` in the dataset
        of fakes, `k` candidate number; `density_ratio` and `weight` where there are any.
        """
        view, fakes = self.view, self.view.fakes
        rows = (np.arange(len(fakes)) if view.rows is None else view.rows)[self.order]
        labels, asked = view.labels[self.order], fakes.labels[rows]
        columns = {"label": labels, "row": rows, "k": fakes.sample_index[rows]}
        if not np.array_equal(labels, asked):
            columns["asked_label"] = asked
        if fakes.density_ratio is not None:
            columns["density_ratio"] = fakes.density_ratio[rows]
        if view.weights is not None:
            columns["weight"] = view.weights[self.order]
        return columns

    def blocks(self) -> Iterator[Block]:
        """All rows, under a progress bar."""
        for blocks in self.shards():
            yield from blocks

    def shards(self) -> Iterator[Iterator[Block]]:
        """The same cut into files, for formats of several: the blocks of each, at most 256 MiB of pixels."""
        with progress("exporting", len(self)) as bar:
            for start in range(0, len(self), self._shard_rows):
                yield self._blocks(start, min(start + self._shard_rows, len(self)), bar)

    @property
    def shard_count(self) -> int:
        """How many files those are."""
        return math.ceil(len(self) / self._shard_rows)

    @property
    def _shard_rows(self) -> int:
        return max(1, _SHARD_BYTES // math.prod(self.image_shape))

    def _blocks(self, start: int, end: int, bar: Progress) -> Iterator[Block]:
        step = min(_MOST_ROWS, max(1, _BLOCK_BYTES // math.prod(self.image_shape)))
        step -= step % 64 if step > 64 else 0  # whole chunks of a compressed HDF5 file
        for first in range(start, end, step):
            part = slice(first, min(first + step, end))
            columns = {name: column[part] for name, column in self.columns.items()}
            yield Block(first, self.view.images(self.order[part]), columns)
            bar.advance(part.stop - first)

    @cached_property
    def png_sizes(self) -> np.ndarray:
        """int64: bytes of some images as PNG, evenly spread over the rows."""
        places = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64))
        return np.array([len(png_bytes(image)) for image in self.view.images(self.order[places])])


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 C x H x W (C 1 or 3) -> PNG, without loss."""
    whole = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(whole, "PNG")
    return whole.getvalue()

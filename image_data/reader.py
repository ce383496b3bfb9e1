"""Whole training batches by number, over images that need not fit in memory; for torch's DataLoader or a plain loop.

A batch is a pure function of (source, order, batch size, rank, number): worker processes, forked or spawned, compute
their batches by themselves, and a reader that starts at the (epoch, position) where another stopped goes on exactly
there, also with other workers, ranks or batch sizes.  Nothing but the batches asked for is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from image_data.shuffle import TrainingOrder
from image_data.sources import Concatenation, ImageSource
from runtime.errors import UserError
from runtime.free_space import free_memory_bytes

Batch = tuple[torch.Tensor, torch.Tensor]
_AHEAD = 16  # batches that the operating system begins to read before they are asked for


class Position(NamedTuple):
    """How far a training has come: `position` images of epoch `epoch`, over all ranks."""

    epoch: int
    position: int


class BatchReader(Dataset[Batch]):
    """`steps` batches from `start` on: `reader[number]` -> (uint8 B x C x H x W, labels B), of this rank.

    Every fake comes once an epoch, and real images make up `real_share` of it (`TrainingOrder`); epochs follow one
    another end to end, and every batch is full.  `batch_size` counts the images of all `ranks` together; rank r has the
    r-th part of each batch.  Labels are in the user's units.
    `ahead`: ask the operating system for the rows so many batches before they are read (None: 16 where the fakes are
    larger than the free memory, otherwise the system's own reading ahead is faster).
    """

    def __init__(
        self,
        fakes: ImageSource,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        real: ImageSource | None = None,
        real_share: float = 0.0,
        start: Position = Position(0, 0),  # noqa: B008 - a constant
        rank: int = 0,
        ranks: int = 1,
        ahead: int | None = None,
    ) -> None:
        if batch_size < 1 or steps < 0:
            raise UserError(
                f"batches of {batch_size} images and {steps} steps make no training; give 1 or more of both."
            )
        if not 0 <= rank < ranks or batch_size % ranks:
            raise UserError(f"a batch of {batch_size} images cannot be shared by rank {rank} of {ranks} ranks evenly.")
        self.fakes, self.batch_size, self.steps, self.rank, self.ranks = fakes, batch_size, steps, rank, ranks
        self.order = TrainingOrder(len(fakes), len(real) if real is not None else 0, real_share, seed)
        if min(start) < 0 or start.position >= self.order.epoch_length:
            raise UserError(f"a training cannot start at {start}; an epoch has {self.order.epoch_length} images.")
        self._first = start.epoch * self.order.epoch_length + start.position
        self.source: ImageSource = fakes if real is None or not self.order.real_slots else Concatenation([fakes, real])
        self.ahead = _batches_ahead(fakes) if ahead is None else ahead

    def __len__(self) -> int:
        return self.steps

    def position(self, number: int) -> Position:
        """Where batch `number` begins: what a later reader needs to go on after `number` batches."""
        return Position(*divmod(self._first + number * self.batch_size, self.order.epoch_length))

    def rows(self, number: int) -> np.ndarray:
        """int64: this rank's rows of batch `number`; fakes first, real images from len(fakes) on."""
        part = self.batch_size // self.ranks
        start = self._first + number * self.batch_size + self.rank * part
        return self.order.rows(start, start + part)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < self.steps:
            raise IndexError(f"batch {number} of {self.steps}")
        if self.ahead:
            self._read_ahead(number)
        rows = self.rows(number)
        labels = torch.from_numpy(np.ascontiguousarray(self.source.labels[rows]))
        return torch.from_numpy(self.source.images(rows)), labels

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(self.steps))

    def loader(self, workers: int = 0, method: str = "spawn", **more: Any) -> DataLoader[Batch]:
        """The same batches, in the same order, read by `workers` processes ("fork", "forkserver" or "spawn").

        `more` goes to torch's DataLoader, e.g. pin_memory=True.
        """
        context = method if workers else None
        return DataLoader(
            self, batch_size=None, shuffle=False, num_workers=workers, multiprocessing_context=context, **more
        )

    def _read_ahead(self, number: int) -> None:
        """Each batch is named once, by whichever process reads the one so many before it."""
        for coming in range(number + self.ahead if number else 0, number + self.ahead + 1):
            if coming < self.steps:
                rows = self.rows(coming)
                self.fakes.expect(rows[rows < len(self.fakes)])


def _batches_ahead(fakes: ImageSource) -> int:
    free = free_memory_bytes()
    if free is None or not fakes.on_disk:
        return 0
    return _AHEAD if fakes.images(np.array([0])).nbytes * len(fakes) > free else 0

"""Programs in files (ONNX, torch.export): what both kinds offer, and how rows are cut into the blocks they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class ProgramInput:
    """One input: `sizes` of all dimensions, the batch first, None where any size will do."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | None, ...]

    @property
    def width(self) -> int | None:
        """Numbers for each image: 1 for N, z for N x z, N x z x 1 and N x z x 1 x 1; None where that is unknown."""
        if len(self.sizes) > 2 and any(size != 1 for size in self.sizes[2:]):
            return None
        return 1 if len(self.sizes) == 1 else self.sizes[1]

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.name} ({kind} {' x '.join('N' if size is None else str(size) for size in self.sizes)})"


class Program(Protocol):
    """A program that is ready to be called.  `batch`: the smallest and the largest number of images that it takes."""

    @property
    def inputs(self) -> tuple[ProgramInput, ...]: ...

    @property
    def batch(self) -> tuple[int, int | None]: ...

    def classes(self, name: str) -> int | None:
        """Rows of the embedding that the input of this name looks up; None where there is none to be seen."""
        ...

    def __call__(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The program's output, N x C x H x W; UserError where it fails."""
        ...


def pieces(
    values: Mapping[str, torch.Tensor], count: int, batch: tuple[int, int | None]
) -> list[tuple[dict[str, torch.Tensor], int]]:
    """(inputs of one call, how many of its rows count): pieces of what a program of `batch` takes, the last filled up.

    `values`: `count` rows of each input.
    """
    smallest, largest = batch
    size = max(count, 1) if largest is None else largest
    calls = []
    for start in range(0, count, size):
        stop = min(start + size, count)
        rows = np.minimum(np.arange(start, max(stop, start + smallest)), stop - 1)
        index = torch.from_numpy(rows)
        calls.append(({name: value[index] for name, value in values.items()}, stop - start))
    return calls

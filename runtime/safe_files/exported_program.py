"""A torch.export program (.pt2), such as `export` writes, or as others save with torch.export.save.

The file is read by `pt2_archive` and run by `pt2_graph`, so nothing in it is unpickled, evaluated or compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
from runtime.safe_files.program import ProgramInput
from runtime.safe_files.pt2_archive import read_archive
from runtime.safe_files.pt2_graph import GraphProgram

PROGRAM_FILE = "program.pt2"
# A size that is one symbol: s17, or Symbol('s17', positive=True, integer=True).  It is compared, never evaluated.
_SYMBOL = re.compile(r"(?:Symbol\(')?([a-z]+[0-9]+)(?:'[A-Za-z=, ]*\))?")
_LARGEST_PIECE = 256
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, StopIteration)


class ExportedProgram:
    """A program that passed the checks, with its weights on `device`."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Read and check the file; UserError naming it where it is damaged or refused."""
        self.path, self.device = path, device
        with torch.inference_mode(False):  # the graph watches whether its weights are changed
            program, tensors = read_archive(path)
            try:
                self._graph = GraphProgram(program, tensors, device)
                signatures = [self._graph.sizes(name) for name in self._graph.inputs]
                self.inputs = tuple(
                    ProgramInput(name, dtype, tuple(size if isinstance(size, int) else None for size in sizes))
                    for name, (dtype, sizes) in zip(self._graph.inputs, signatures, strict=True)
                )
                flat = [str(slot) for slot in self.inputs if not slot.sizes]
                if flat:
                    raise ValueError(
                        f"its input {flat[0]} is one value for all images (a truncation, a noise, a switch): fix it "
                        f"before the export, so that the inputs left are latents and labels"
                    )
                self.batch = _batch([sizes[0] for _, sizes in signatures], program["range_constraints"])
            except _MALFORMED as error:
                raise UserError(f"{path} cannot be run: {_reason(error)}.") from error

    def classes(self, name: str) -> int | None:
        """Rows of the embedding that the input looks up."""
        return self._graph.embedding_rows(name)

    def __call__(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        try:
            return self._graph.run([values[slot.name] for slot in self.inputs])
        except _MALFORMED as error:
            raise UserError(f"{self.path} cannot be run: {_reason(error)}.") from error
        except (RuntimeError, NotImplementedError, OverflowError) as error:
            raise UserError(f"{self.path} fails in torch ({_reason(error)}); export it again.") from error


def _batch(sizes: list[int | str], ranges: Mapping[str, Mapping[str, Any]]) -> tuple[int, int | None]:
    """The smallest and largest batch from the first size of every input; ValueError where they differ."""
    batches = {size if isinstance(size, int) else _symbol(size) for size in sizes}
    if not batches:
        raise ValueError("it has no inputs, so all its images would be one: export it with its latents")
    if len(batches) != 1:
        raise ValueError(f"its inputs have no common batch, but {', '.join(sorted(map(str, batches))) or 'none'}")
    (size,) = batches
    if isinstance(size, int):
        if size < 1:
            raise ValueError("its batch is empty")
        return size, size
    limits = ranges.get(size, {})
    low, high = limits.get("min_val"), limits.get("max_val")
    smallest = max(1, low if isinstance(low, int) else 1)
    largest = high if isinstance(high, int) and high < 2**31 else None
    if largest is not None and largest < smallest:
        raise ValueError("its batch is empty")
    return smallest, largest if largest is None or smallest > _LARGEST_PIECE else min(largest, _LARGEST_PIECE)


def _symbol(text: str) -> str:
    match = _SYMBOL.fullmatch(text)
    if match is None:
        raise ValueError(f"its batch is {text[:60]!r}, which is no plain symbol")
    return match.group(1)


def _reason(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"

"""Cells of work that several processes share, also on several machines with one file system.

A cell has a folder; whoever claims it (`runtime.claims`) does its work, and the others wait for its result or take
another cell.  A cell whose owner was killed is taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runtime.claims import try_claim
from runtime.progress import progress

Cell = TypeVar("Cell")
_POLL_SECONDS = 0.5


class Workers(Protocol):
    """What is asked of an engine."""

    workers: int

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]: ...


def share_cells(
    title: str,
    cells: Sequence[Cell],
    place: Callable[[Cell], Path],
    is_finished: Callable[[Cell], bool],
    run: Callable[[Cell], None],
    engine: Workers | None = None,
) -> None:
    """Run every cell that is not finished, and return when all are, whoever finished them.

    place: a cell's own folder; run: leaves the cell finished.  All three must be picklable where `engine` has more
    than one worker.
    """
    work = partial(_work_through, title, tuple(cells), place, is_finished, run)
    if engine is None:
        work(0)
        return
    for _ in engine.map(work, range(min(engine.workers, len(cells)))):
        pass


def _work_through(
    title: str,
    cells: Sequence[Cell],
    place: Callable[[Cell], Path],
    is_finished: Callable[[Cell], bool],
    run: Callable[[Cell], None],
    worker: int,
) -> None:
    with progress(title, len(cells), 0) as bar:
        while True:
            unfinished = [cell for cell in cells if not is_finished(cell)]
            bar.update(len(cells) - len(unfinished))
            if not unfinished:
                return
            if not any(_claim_and_run(place(cell), cell, is_finished, run) for cell in unfinished):
                time.sleep(_POLL_SECONDS)


def _claim_and_run(folder: Path, cell: Cell, is_finished: Callable[[Cell], bool], run: Callable[[Cell], None]) -> bool:
    """Run one cell if no other process has it; returns whether it was run."""
    claim = try_claim(folder)
    if claim is None:
        return False
    with claim:
        if is_finished(cell):  # its former owner has finished it in between
            return False
        run(cell)
    return True

"""Choosing rho, the share of fakes that the filter keeps, by training students over a grid (rho x student x seed).

Each cell is a folder `cells/rho0.70-resnet8-seed1/` whose `result.json` is written last and in one step; a cell
without it is unfinished and is run again (`run_cell` gets the folder and may continue from what lies there).  Several
processes may run the same search at the same time (`runtime.claims`); each returns all results.

What a cell is scored on must not have been seen by the GAN, the density ratio or the filter's predictor.  `run_cell`
is handed in by the command, which guarantees it: it builds all of these from the training role only, and passes what
they saw to `classifiers.leak_guard.refuse_seen_images` before the first cell.  (The original scores on a fifth of the
very images on which its GAN, ratio and teacher were fitted.)
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from classifiers.rho_pruning import MedianStop
from interfaces import Engine
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.shared_cells import share_cells

RESULT_FILE = "result.json"
_REMEDY = "delete it, and the search runs that cell again"


@dataclass(frozen=True, order=True)
class Cell:
    """One training: `rho` in (0, 1], at most two decimals."""

    rho: float
    student: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"rho{self.rho:.2f}-{self.student.replace(':', '_').replace('/', '_')}-seed{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """`score` is the validation score at the end (lower is better), or None for a pruned cell."""

    cell: Cell
    score: float | None
    pruned: bool
    curve: tuple[tuple[int, float], ...]  # (step, validation score) as reported
    details: dict[str, Any]  # all else that run_cell returned


class CellPruned(Exception):
    """Raised by a report when the cell is worse than the median; `run_cell` lets it pass."""


class CellReport:
    """Takes every validation score: `report(step, score)`.  `folder` is the cell's own, for the training in it."""

    def __init__(self, folder: Path, stop: MedianStop | None) -> None:
        self.folder, self._stop = folder, stop
        self.curve: list[tuple[int, float]] = []

    def __call__(self, step: int, score: float) -> None:
        """Note a score.  Raises CellPruned where pruning is on and the cell falls behind."""
        self.curve.append((int(step), float(score)))
        if self._stop is not None and self._stop.falls_behind(step, score):
            raise CellPruned


RunCell = Callable[[Cell, CellReport], dict[str, Any]]


def grid(rhos: Sequence[float], students: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished search has compared every rho.  UserError for a bad grid."""
    if not (rhos and students and seeds):
        raise UserError("the rho grid is empty; give at least one rho, one student and one seed.")
    for rho in rhos:
        if not (0.0 < rho <= 1.0 and math.isfinite(rho)):
            raise UserError(f"rho {rho:g} lies outside (0, 1]; rho is the share of fakes to keep, e.g. 0.7.")
        if abs(rho - round(rho, 2)) > 1e-9:
            raise UserError(f"rho {rho:g} has more than two decimals; round it.")
    cells = [Cell(round(float(rho), 2), student, seed) for seed in seeds for student in students for rho in rhos]
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError("the rho grid names a cell twice; give each rho, student and seed once.")
    return cells


def search(
    cells: Sequence[Cell], run_cell: RunCell, out: Path, *, prune: bool = False, engine: Engine | None = None
) -> list[CellResult]:
    """Run every cell that has no result yet and return all results in the order of `cells`.

    `run_cell(cell, report)` trains one student and returns a JSON dict with `score` (lower is better, finite); it
    must be picklable where `engine` has more than one worker.  `prune` stops a cell at the first seed of its rho when
    it is worse than the median of the finished ones there; that rho is then out of the race.
    Without pruning the results depend on `run_cell` alone, not on order, workers or kills.
    """
    if not cells:
        raise UserError("the rho grid is empty; give at least one rho, one student and one seed.")
    out = Path(out)
    place, is_finished = partial(_folder, out=out), partial(_is_finished, out=out)
    run = partial(_run, cells=tuple(cells), run_cell=run_cell, out=out, prune=prune)
    share_cells("rho search", cells, place, is_finished, run, engine)
    return read_results(cells, out)


def read_results(cells: Sequence[Cell], out: Path) -> list[CellResult]:
    """The finished cells among `cells`."""
    results = (_read(cell, Path(out)) for cell in cells)
    return [result for result in results if result is not None]


def _is_finished(cell: Cell, out: Path) -> bool:
    return _read(cell, out) is not None


def _run(cell: Cell, cells: Sequence[Cell], run_cell: RunCell, out: Path, prune: bool) -> None:
    """Train one cell, which is claimed, and write its result."""
    folder = _folder(cell, out)
    rivals = [result for result in read_results(cells, out) if result.cell.student == cell.student]
    mates = [result for result in rivals if result.cell.rho == cell.rho]
    if prune and any(mate.pruned for mate in mates):
        _write(cell, out, CellReport(folder, None), {"score": None, "reason": "its rho was pruned at another seed"})
        return
    stop = MedianStop([rival.curve for rival in rivals if not rival.pruned]) if prune and not mates else None
    report = CellReport(folder, stop)
    try:
        outcome = dict(run_cell(cell, report))
        if not math.isfinite(float(outcome["score"])):
            raise UserError(f"cell {cell.name}: the score is not a number; look at its training.")
    except CellPruned:
        outcome = {"score": None, "reason": "worse than the median of the finished cells at the same step"}
        for left in (path for path in folder.iterdir() if path.is_dir()):
            shutil.rmtree(left, ignore_errors=True)
    _write(cell, out, report, outcome)


def _folder(cell: Cell, out: Path) -> Path:
    return out / "cells" / cell.name


def _write(cell: Cell, out: Path, report: CellReport, outcome: dict[str, Any]) -> None:
    score = None if outcome["score"] is None else float(outcome["score"])
    details = {name: value for name, value in outcome.items() if name != "score"}
    value = {"cell": asdict(cell), "score": score, "pruned": score is None, "curve": report.curve, "details": details}
    write_sealed_json(_folder(cell, out) / RESULT_FILE, value)


def _read(cell: Cell, out: Path) -> CellResult | None:
    path = _folder(cell, out) / RESULT_FILE
    try:
        stored = read_sealed_json(path, _REMEDY)
        if stored["cell"] != asdict(cell):
            raise UserError(f"{path} belongs to another cell ({stored['cell']}); use another --out.")
        curve = tuple((int(step), float(score)) for step, score in stored["curve"])
        return CellResult(cell, stored["score"], bool(stored["pruned"]), curve, dict(stored["details"]))
    except MissingFile:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({printable(error)}); {_REMEDY}.") from error

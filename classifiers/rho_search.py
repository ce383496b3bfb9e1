"""Choosing rho, the share of fakes that the filter keeps, by training students over a grid (rho x student x seed).

Each cell is a folder `cells/rho0.70-resnet8-seed1/` whose `result.json` is written last and in one step; a cell
without it is unfinished and is run again (`run_cell` gets the folder and may continue from what lies there).  Several
processes may run the same search at the same time (`runtime.claims`); each returns all results.  Where many small
students train faster at once (`Groups`), the new cells of a round are parted into groups, each of one student, in a way
that follows from the grid and the race alone; a group is claimed, killed and continued as one.  A race
(`classifiers.rho_race`) goes in rounds: all cells of a round are finished, whoever runs them, before it drops a rho, so
that what is dropped follows from the cells' results alone.

What a cell is scored on must not have been seen by the GAN, the density ratio or the filter's predictor.  `run_cell`
is handed in by the command, which guarantees it: it builds all of these from the training role only, and passes what
they saw to `classifiers.leak_guard.refuse_seen_images` before the first cell.  (The original scores on a fifth of the
very images on which its GAN, ratio and teacher were fitted.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.rho_race import NO_FILTER, Race
from interfaces import Engine
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.shared_cells import share_cells

RESULT_FILE, COST_FILE = "result.json", "cost.json"
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
    """errors: of each validation image at the end, lower is better; `score` is their mean."""

    cell: Cell
    errors: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]  # (step, validation score) as reported
    details: dict[str, Any]  # all else that run_cell returned

    @property
    def score(self) -> float:
        """The mean error."""
        return float(np.mean(self.errors))


class CellReport:
    """Takes every validation score: `report(step, score)`.  `folder` is the cell's own, for the training in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curve: list[tuple[int, float]] = []

    def __call__(self, step: int, score: float) -> None:
        """Note a score."""
        self.curve.append((int(step), float(score)))


RunCell = Callable[[Cell, CellReport], dict[str, Any]]


@dataclass(frozen=True)
class Groups:
    """How cells are trained several at once.

    run(cells, reports, folder): what run_cell returns, of each cell; `folder` is the group's own while it trains.
    sizes: student -> cells at once, at most; 1 for alone.
    """

    run: Callable[[Sequence[Cell], Sequence[CellReport], Path], list[dict[str, Any]]]
    sizes: Mapping[str, int]

    def parted(self, cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
        """The cells in groups of about equal size, in their order."""
        units = []
        for student in dict.fromkeys(cell.student for cell in cells):
            own = [cell for cell in cells if cell.student == student]
            count = math.ceil(len(own) / max(1, self.sizes.get(student, 1)))
            edges = [len(own) * number // count for number in range(count + 1)]
            units += [tuple(own[low:high]) for low, high in pairwise(edges)]
        return units


def grid(rhos: Sequence[float], students: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished search has compared every rho.  UserError for a bad grid.

    rho 1, with which the others are compared, is added where it is missing.
    """
    if not (rhos and students and seeds):
        raise UserError("the rho grid is empty; give at least one rho, one student and one seed.")
    for rho in rhos:
        if not (0.0 < rho <= 1.0 and math.isfinite(rho)):
            raise UserError(f"rho {rho:g} lies outside (0, 1]; rho is the share of fakes to keep, e.g. 0.7.")
        if abs(rho - round(rho, 2)) > 1e-9:
            raise UserError(f"rho {rho:g} has more than two decimals; round it.")
    rounded = [round(float(rho), 2) for rho in rhos]
    rounded += [] if NO_FILTER in rounded else [NO_FILTER]
    cells = [Cell(rho, student, seed) for seed in seeds for student in students for rho in rounded]
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError("the rho grid names a cell twice; give each rho, student and seed once.")
    return cells


def search(
    cells: Sequence[Cell],
    run_cell: RunCell,
    out: Path,
    *,
    race: Race | None = None,
    groups: Groups | None = None,
    engine: Engine | None = None,
) -> list[CellResult]:
    """Run every cell that has no result yet and return all results in the order of `cells`.

    `run_cell(cell, report)` trains one student and returns a JSON dict with `errors`, one finite number for each
    validation image (lower is better); it must be picklable where `engine` has more than one worker.
    `race`: a rho that it drops runs no further seeds.  `groups`: trains several cells at once.  The results depend on
    these functions alone, not on order, workers or kills.
    """
    if not cells:
        raise UserError("the rho grid is empty; give at least one rho, one student and one seed.")
    out, seeds = Path(out), list(dict.fromkeys(cell.seed for cell in cells))
    place, is_finished = partial(_place, out=out), partial(_is_finished, out=out)
    run = partial(_run, run_cell=run_cell, groups=groups, out=out)
    results: list[CellResult] = []
    before = 0
    for count in race.rounds if race else [len(seeds)]:
        # What another process has run beyond this round decides nothing here: the groups would be other ones.
        known = errors_by_rho([result for result in results if result.cell.seed in seeds[:before]])
        gone = {one.rho for one in race.dropped(known)} if race and before else set()
        if gone and {cell.rho for cell in cells} - gone <= {NO_FILTER}:
            break  # nothing is left to compare rho 1 with
        due = [cell for cell in cells if cell.seed in seeds[before:count] and cell.rho not in gone]
        units = groups.parted(due) if groups else [(cell,) for cell in due]
        share_cells("rho search", units, place, is_finished, run, engine)
        results, before = read_results(cells, out), count
    return results


def read_results(cells: Sequence[Cell], out: Path) -> list[CellResult]:
    """The finished cells among `cells`."""
    results = (_read(cell, Path(out)) for cell in cells)
    return [result for result in results if result is not None]


def errors_by_rho(results: Sequence[CellResult]) -> dict[float, np.ndarray]:
    """rho -> seeds x images: mean errors over the students, of the seeds up to the first that lacks a student.

    UserError where cells were scored on unequal numbers of images.
    """
    students, seeds, rhos = (
        list(dict.fromkeys(getattr(result.cell, name) for result in results)) for name in ("student", "seed", "rho")
    )
    if len(images := {len(result.errors) for result in results}) > 1:
        raise UserError(f"the cells were scored on {sorted(images)} images; search again with another --out.")
    known = {result.cell: result.errors for result in results}
    errors = {}
    for rho in rhos:
        rows = []
        for seed in seeds:
            own = [known.get(Cell(rho, student, seed)) for student in students]
            if None in own:
                break
            rows.append(np.mean(np.array(own, dtype=np.float64), axis=0))
        errors[rho] = np.array(rows).reshape(len(rows), max(images, default=0))
    return errors


def read_costs(cells: Sequence[Cell], out: Path) -> dict[str, float]:
    """Seconds of all cells that were run, "cpu_seconds" and "wall_seconds"; of each its last run, from where it was
    continued."""
    total = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
    for cell in cells:
        path = _folder(cell, Path(out)) / COST_FILE
        for name, value in read_sealed_json(path).items() if path.is_file() else ():
            total[name] += float(value)
    return total


def _place(unit: tuple[Cell, ...], out: Path) -> Path:
    """Where a cell, or a group of cells, is claimed."""
    if len(unit) == 1:
        return _folder(unit[0], out)
    return out / "groups" / f"{unit[0].name}-and-{len(unit) - 1}-more"


def _is_finished(unit: tuple[Cell, ...], out: Path) -> bool:
    return all(_read(cell, out) is not None for cell in unit)


def _run(unit: tuple[Cell, ...], run_cell: RunCell, groups: Groups | None, out: Path) -> None:
    """Train what is claimed, and write each cell's result."""
    reports = [CellReport(_folder(cell, out)) for cell in unit]
    begin = time.process_time(), time.perf_counter()
    if len(unit) == 1 or groups is None:
        outcomes = [run_cell(cell, report) for cell, report in zip(unit, reports, strict=True)]
    else:
        outcomes = groups.run(unit, reports, _place(unit, out))
    spent = (time.process_time() - begin[0]) / len(unit), (time.perf_counter() - begin[1]) / len(unit)
    for cell, report, outcome in zip(unit, reports, outcomes, strict=True):
        _write(cell, report, dict(outcome), dict(zip(("cpu_seconds", "wall_seconds"), spent, strict=True)))


def _write(cell: Cell, report: CellReport, outcome: dict[str, Any], cost: dict[str, float]) -> None:
    errors = np.asarray(outcome.pop("errors"), dtype=np.float64)
    if not (errors.size and np.isfinite(errors).all()):
        raise UserError(f"cell {cell.name}: the score is not a number; look at its training.")
    report.folder.mkdir(parents=True, exist_ok=True)
    write_sealed_json(report.folder / COST_FILE, cost)
    value = {
        "cell": asdict(cell),
        "score": float(errors.mean()),
        "errors": " ".join(f"{error:.17g}" for error in errors.tolist()),  # exact, and one line
        "curve": report.curve,
        "details": outcome,
    }
    write_sealed_json(report.folder / RESULT_FILE, value)


def _folder(cell: Cell, out: Path) -> Path:
    return out / "cells" / cell.name


def _read(cell: Cell, out: Path) -> CellResult | None:
    path = _folder(cell, out) / RESULT_FILE
    try:
        stored = read_sealed_json(path, _REMEDY)
        if stored["cell"] != asdict(cell):
            raise UserError(f"{path} belongs to another cell ({stored['cell']}); use another --out.")
        if "errors" not in stored:
            raise UserError(f"{path} is of an earlier version, without the errors of single images; {_REMEDY}.")
        errors = tuple(float(error) for error in stored["errors"].split())
        curve = tuple((int(step), float(score)) for step, score in stored["curve"])
        return CellResult(cell, errors, curve, dict(stored["details"]))
    except MissingFile:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({printable(error)}); {_REMEDY}.") from error

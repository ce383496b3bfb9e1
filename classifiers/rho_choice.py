"""Which rho: the one of the lowest validation error among those that are resolved from rho 1; else rho 1.

For each rho below 1 the paired difference of its error to that of rho 1 has an interval over training seeds and
validation images (`evaluation.crossed`, Student's t).  The intervals hold all together with 95 % (Bonferroni: each
leaves out 5 % / rhos), since the lowest of several means looks better than it is.  A rho whose interval reaches 0 is
not resolved: filtering may as well do nothing, and rho 1 keeps all fakes.  What the interval does not cover is the GAN,
the filter, the predictor and the labelled images, which all cells share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import yaml

from classifiers.rho_race import NO_FILTER, Dropped, Race, compared
from classifiers.rho_search import CellResult, errors_by_rho
from runtime.atomic import write_text
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files.sealed_json import SEAL

CONFIDENCE = 0.95
FORMAT = 2  # of choice.json; 1 had bars over seeds alone, and the largest rho within one standard error of the best


@dataclass(frozen=True)
class RhoLine:
    """One rho: the mean error over images, students and the seeds that it ran, and the difference to rho 1 on those.

    half: of the interval of the difference; None for rho 1, and where one seed shows no spread.
    """

    rho: float
    mean: float
    seeds: int
    difference: float | None
    standard_error: float | None
    half: float | None
    by_student: dict[str, float]
    dropped: Dropped | None = None

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves out 0: better or worse than rho 1; else 0."""
        if self.difference is None or self.half is None or abs(self.difference) <= self.half:
            return 0
        return 1 if self.difference > 0 else -1


@dataclass(frozen=True)
class Choice:
    """The chosen rho and how it came about; errors unscaled."""

    rho: float
    best_rho: float  # of the lowest mean
    resolved: bool  # whether `rho` is better than rho 1 beyond its interval
    students: tuple[str, ...]
    seeds: int
    images: int
    risk: float | None  # of the race that dropped rhos, where there was one
    lines: tuple[RhoLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON for the report."""
        return {"format": FORMAT, "confidence": CONFIDENCE, **asdict(self)}

    @property
    def compared(self) -> int:
        """How many rhos are compared with rho 1."""
        return len(self.lines) - 1


def choose(results: Sequence[CellResult], race: Race | None = None, student: str | None = None) -> Choice:
    """Apply the rule; over all students together, or for one.  `race`: under which the cells were run.

    UserError where a cell is missing that no race has spared.
    """
    chosen = [result for result in results if student in (None, result.cell.student)]
    errors = errors_by_rho(chosen)
    if not len(errors.get(NO_FILTER, ())):
        raise UserError("rho 1, with which the others are compared, has no finished cell; let the search end.")
    gone = {one.rho: one for one in race.dropped(errors)} if race else {}
    seeds = len({result.cell.seed for result in chosen})
    for rho, rows in errors.items():
        if len(rows) < (gone[rho].seeds if rho in gone else seeds):
            raise UserError(f"rho {rho:g} lacks cells of some seeds; run the search again to its end.")
    tail = (1.0 - CONFIDENCE) / 2 / max(1, len(errors) - 1)
    lines = tuple(_line(rho, errors, chosen, tail, gone.get(rho)) for rho in sorted(errors))
    running = [line for line in lines if line.dropped is None]
    best = min(running, key=lambda line: (line.mean, -line.rho))
    better = min((line for line in running if line.sign < 0), key=lambda line: (line.mean, -line.rho), default=None)
    return Choice(
        rho=NO_FILTER if better is None else better.rho,
        best_rho=best.rho,
        resolved=better is not None,
        students=tuple(dict.fromkeys(result.cell.student for result in chosen)),
        seeds=seeds,
        images=errors[NO_FILTER].shape[1],
        risk=race.risk if race else None,
        lines=lines,
    )


def _line(
    rho: float, errors: Mapping[float, np.ndarray], results: Sequence[CellResult], tail: float, dropped: Dropped | None
) -> RhoLine:
    rows = errors[rho] if dropped is None else errors[rho][: dropped.seeds]
    ran = list(dict.fromkeys(result.cell.seed for result in results))[: len(rows)]
    by_student: dict[str, list[float]] = {}
    for result in results:
        if result.cell.rho == rho and result.cell.seed in ran:
            by_student.setdefault(result.cell.student, []).append(result.score)
    difference = None if rho == NO_FILTER else compared(rows, errors[NO_FILTER][: len(rows)])
    return RhoLine(
        rho=rho,
        mean=float(rows.mean()),
        seeds=len(rows),
        difference=difference.mean if difference else None,
        standard_error=difference.standard_error if difference else None,
        half=difference.half(tail) if difference else None,
        by_student={name: float(np.mean(scores)) for name, scores in by_student.items()},
        dropped=dropped,
    )


def render(choice: Choice, unit: str = "error, %", scale: float = 100.0) -> str:
    """Plain text for a terminal; `<` marks the chosen rho."""
    several = choice.students if len(choice.students) > 1 else ()
    head = f"{'rho':>5}  {'val ' + unit:>18}  {'minus rho 1':>16}  {'seeds':>5}"
    rows = [head + "".join(f"  {name:>12}" for name in several)]
    for line in choice.lines:
        single = "".join(f"  {line.by_student[name] * scale:12.2f}" for name in several)
        row = f"{line.rho:5.2f}  {line.mean * scale:18.2f}  {_difference(line, scale):>16}  {line.seeds:5d}{single}"
        rows.append(f"{row}  {_mark(line, choice, scale)}".rstrip())
    return "\n".join([*rows, *explained(choice, scale)])


def _difference(line: RhoLine, scale: float) -> str:
    if line.difference is None:
        return ""
    return f"{line.difference * scale:+.2f}" + ("" if line.half is None else f" ± {line.half * scale:.2f}")


def _mark(line: RhoLine, choice: Choice, scale: float) -> str:
    if line.rho == choice.rho:
        return "< chosen"
    if (lost := line.dropped) is not None:
        return f"dropped: {lost.difference * scale:.2f} ± {lost.half * scale:.2f} above rho {lost.by:.2f}"
    return "(lowest)" if line.rho == choice.best_rho else ""


def explained(choice: Choice, scale: float = 100.0) -> list[str]:
    """What was chosen and why, what the intervals cover, and the race's risk: a sentence each."""
    said = [_verdict(choice, scale)]
    if choice.compared:
        said.append(
            f"±: half of the {CONFIDENCE:.0%} interval of the paired difference, over training seeds and "
            f"{choice.images} validation images, of {choice.compared} rhos together (Student's t); the GAN, the filter "
            "and the labelled images are the same for all."
        )
    if choice.risk is not None:
        lost = sum(line.dropped is not None for line in choice.lines)
        said.append(
            f"race: {lost} of {choice.compared} rhos dropped; the risk that the best is among them is at most "
            f"{choice.risk:.2g}."
        )
    return said


def _verdict(choice: Choice, scale: float) -> str:
    if choice.resolved:
        chosen = next(line for line in choice.lines if line.rho == choice.rho)
        lowest = "lowest error" if choice.rho == choice.best_rho else "lowest error of those resolved from rho 1"
        return f"rho {choice.rho:.2f}: the {lowest}, {_difference(chosen, scale)} to that of rho 1."
    if not choice.compared:
        return "rho 1: the grid holds no other."
    if choice.best_rho == NO_FILTER:
        return "rho 1: its error is the lowest."
    if choice.seeds < 2:
        return "not resolved: rho 1, since one seed has no spread; give two --seeds or more, better 8."
    best = next(line for line in choice.lines if line.rho == choice.best_rho)
    return (
        f"not resolved: rho 1, since no rho is better than it beyond its interval (lowest: rho {best.rho:.2f}, "
        f"{_difference(best, scale)})."
    )


def write_choice(choice: Choice, path: Path, network: Mapping[str, Any] | None = None, scale: float = 100.0) -> None:
    """YAML that `distill --config` reads: `rho`, and `network` where the search had one only, under a seal.

    network: the one network with its settings, where they are not its own defaults.
    """
    options: dict[str, Any] = {"rho": choice.rho}
    if len(choice.students) == 1:
        options["network"] = dict(network) if network else choice.students[0]
    said = [
        f"Chosen by search-rho on {choice.images} validation images with {choice.seeds} seeds of "
        f"{', '.join(choice.students)}.",
        *explained(choice, scale),
        f"Who changes it takes the line `{SEAL}` out.",
    ]
    note = "".join(f"# {line}\n" for one in said for line in wrap(one, 116))
    write_text(path, note + yaml.safe_dump({**options, SEAL: digest_of(options)}, sort_keys=False))

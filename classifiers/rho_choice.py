"""Which rho: the largest (least filtering) whose mean validation score is within one standard error of the best.

The one-standard-error rule (Breiman et al. 1984, CART, section 3.4.3) prefers the simpler model among those that the
data cannot tell apart; here simpler means that fewer fakes are thrown away.  The standard error is that of the best
rho's mean over seeds: it covers the randomness of training, not the draw of the validation images, and it is 0 with
one seed, so that the best wins outright (among equals the largest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from classifiers.rho_search import CellResult
from runtime.atomic import write_text
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files.sealed_json import SEAL


@dataclass(frozen=True)
class RhoLine:
    """One rho: mean over seeds of the mean over students, its standard error, and what is missing."""

    rho: float
    mean: float | None  # None where a cell was pruned or is missing
    standard_error: float  # 0 with one seed
    seeds: int
    pruned: int
    by_student: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The chosen rho and how it came about."""

    rho: float
    best_rho: float
    limit: float  # best mean + its standard error
    students: tuple[str, ...]
    lines: tuple[RhoLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON for the report."""
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}


def rho_lines(results: Sequence[CellResult], student: str | None = None) -> list[RhoLine]:
    """One line a rho, in rising order; `student` restricts to one student."""
    chosen = [result for result in results if student in (None, result.cell.student)]
    students = sorted({result.cell.student for result in chosen})
    seeds = sorted({result.cell.seed for result in chosen})
    lines = []
    for rho in sorted({result.cell.rho for result in chosen}):
        here = {(r.cell.student, r.cell.seed): r.score for r in chosen if r.cell.rho == rho and r.score is not None}
        complete = len(here) == len(students) * len(seeds)
        by_seed = [np.mean([here[name, seed] for name in students]) for seed in seeds] if complete else []
        by_student = {}
        for name in students:
            scores = [score for (owner, _), score in here.items() if owner == name]
            if scores:
                by_student[name] = float(np.mean(scores))
        lines.append(
            RhoLine(
                rho=rho,
                mean=float(np.mean(by_seed)) if complete else None,
                standard_error=float(np.std(by_seed, ddof=1) / np.sqrt(len(seeds))) if len(by_seed) > 1 else 0.0,
                seeds=len(seeds),
                pruned=sum(r.pruned for r in chosen if r.cell.rho == rho),
                by_student=by_student,
            )
        )
    return lines


def choose(results: Sequence[CellResult], student: str | None = None) -> Choice:
    """Apply the rule; over all students together, or for one.  Raises UserError where no rho has all its cells."""
    lines = rho_lines(results, student)
    candidates = [(line.mean, line) for line in lines if line.mean is not None]
    if not candidates:
        raise UserError("no rho has all its cells finished; let the search end, or search again without pruning.")
    best_mean, best = min(candidates, key=lambda entry: (entry[0], -entry[1].rho))
    limit = best_mean + best.standard_error
    chosen = max((line for mean, line in candidates if mean <= limit), key=lambda line: line.rho)
    students = tuple(sorted({name for line in lines for name in line.by_student}))
    return Choice(chosen.rho, best.rho, limit, students, tuple(lines))


def render(choice: Choice, unit: str = "error, %", scale: float = 100.0) -> str:
    """Plain text for a terminal; `<` marks the chosen rho."""
    head = f"{'rho':>5}  {'val ' + unit:>18}  " + "  ".join(f"{name:>12}" for name in choice.students)
    rows = [head.rstrip()]
    for line in choice.lines:
        if line.mean is None:
            mean = f"pruned ({line.pruned})" if line.pruned else "unfinished"
        else:
            mean = f"{line.mean * scale:.2f} ± {line.standard_error * scale:.2f}"
        single = [f"{line.by_student[n] * scale:12.2f}" if n in line.by_student else " " * 12 for n in choice.students]
        mark = "  < chosen" if line.rho == choice.rho else "  (lowest)" if line.rho == choice.best_rho else ""
        rows.append((f"{line.rho:5.2f}  {mean:>18}  " + "  ".join(single)).rstrip() + mark)
    rows.append(
        f"rule: the largest rho with a mean of at most {choice.limit * scale:.2f} (lowest + its standard error)"
    )
    return "\n".join(rows)


def write_choice(choice: Choice, path: Path, network: Mapping[str, Any] | None = None) -> None:
    """YAML that `distill --config` reads: `rho`, and `network` where the search had one only, under a seal.

    network: the one network with its settings, where they are not its own defaults.
    """
    options: dict[str, Any] = {"rho": choice.rho}
    if len(choice.students) == 1:
        options["network"] = dict(network) if network else choice.students[0]
    note = (
        f"# Chosen by search-rho on validation images: the largest rho within one standard error of the lowest mean\n"
        f"# (lowest at rho {choice.best_rho:.2f}; students {', '.join(choice.students)}).\n"
        f"# Who changes it takes the line `{SEAL}` out.\n"
    )
    write_text(path, note + yaml.safe_dump({**options, SEAL: digest_of(options)}, sort_keys=False))

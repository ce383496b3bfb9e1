"""Does a filter help?  The same metrics before and after it, on a judge that neither filtered nor labelled anything.

Every metric with a direction and an error bar decides: a filter helps where one gets better by more than two standard
errors and none gets worse by as much.  Both standard errors enter, as if the two sets were drawn apart; they share real
images (and the second set is often a part of the first), so the test is on the safe side.  The Fréchet distance does
not decide: it has no error bar, and between sets of unequal size it is biased.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.metrics import Metric, all_metrics
from evaluation.metrics.registry import Row, cell
from evaluation.table import Column, Measured, thousands

Verdict = Literal["helps", "no difference", "harms", "mixed"]
SIGMAS = 2.0  # of the difference: about one in twenty differences of nothing is as large


@dataclass(frozen=True)
class Change:
    """One metric; `gain` is positive where the filter made it better, in its own unit, `error` its standard error."""

    column: Column
    before: float
    after: float
    gain: float
    error: float

    @property
    def sigmas(self) -> float:
        """Gain in standard errors."""
        if self.error > 0.0:
            return self.gain / self.error
        return 0.0 if self.gain == 0.0 else math.copysign(math.inf, self.gain)

    @property
    def text(self) -> str:
        """Both numbers and the standard error of their difference, in the unit of the tables."""
        column, values = self.column, (self.before, self.after, self.error)
        before, after, error = (thousands(value * column.scale, column.decimals) for value in values)
        return f"{column.name} {before} → {f'{after} {column.unit}'.rstrip()} (± {error})"


@dataclass(frozen=True)
class FilterEffect:
    """One filter: its name, the rows of an evaluation before and after it, and what it did."""

    name: str
    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Verdict:
        better = any(change.sigmas > SIGMAS for change in self.changes)
        worse = any(change.sigmas < -SIGMAS for change in self.changes)
        if better and worse:
            return "mixed"
        return "helps" if better else "harms" if worse else "no difference"

    @property
    def claim(self) -> str:
        """In a few words: what the filter did."""
        does = {
            "helps": "helps",
            "no difference": "does not beat its absence",
            "harms": "makes the images worse than its absence",
            "mixed": "makes one measure better and another worse",
        }
        return f"the {self.name} {does[self.verdict]}"

    @property
    def sentence(self) -> str:
        """The claim with its numbers, and what to do where the filter does not help."""
        why = ", no change as large as two standard errors" if self.verdict == "no difference" else ""
        return f"{self.claim}: {', '.join(change.text for change in self.changes)}{why}{self._remedy}."

    @property
    def _remedy(self) -> str:
        if self.verdict == "helps":
            return ""
        without = "sample with --filter none" if self.name == "density ratio" else "use --rho 1"
        other = "fit the filter again" if self.name == "density ratio" else "train another predictor"
        if self.verdict == "no difference":
            return f"; measure more images (evaluate --images-per-class), or do without it ({without})"
        return f"; {without}, or {other}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for --json."""
        changes = [
            {"measure": c.column.name, "before": c.before, "after": c.after, "gain": c.gain, "standard_error": c.error}
            for c in self.changes
        ]
        return {
            "filter": self.name,
            "before": self.before,
            "after": self.after,
            "verdict": self.verdict,
            "changes": changes,
            "text": self.sentence,
        }


def filter_effects(rows: Mapping[str, Row], ratio_rejects: bool = True) -> list[FilterEffect]:
    """The filters that an evaluation's rows (`evaluate`: teacher, accepted, accepted, rho R) hold before and after.

    ratio_rejects: whether the density ratio rejected anything at sampling.  Rows of different feature networks are
    never compared.
    """
    steps = [("density ratio", "teacher", "accepted")] if ratio_rejects and "teacher" in rows else []
    steps += [
        (f"error filter at {name.removeprefix('accepted, ')}", "accepted", name)
        for name in rows
        if name.startswith("accepted, rho ") and name != "accepted, rho 1"
    ]
    effects = [
        FilterEffect(name, before, after, tuple(_changes(rows[before], rows[after])))
        for name, before, after in steps
        if "accepted" in rows
    ]
    return [effect for effect in effects if effect.changes]


def one_line(effects: Sequence[FilterEffect]) -> tuple[str, Literal["good", "mixed", "bad", "plain"]]:
    """(first line of a report, its tone): the filters that do not beat their absence, or that all do."""
    if not effects:
        return "", "plain"
    failing = [effect for effect in effects if effect.verdict != "helps"]
    if failing:
        text = ", and ".join(effect.claim for effect in failing)
        tone: Literal["bad", "mixed"] = "bad" if any(effect.verdict == "harms" for effect in failing) else "mixed"
        return f"{text[0].upper()}{text[1:]}, by a judge that took no part in the filtering.", tone
    names = " and ".join(f"the {effect.name}" for effect in effects)
    does = "help" if len(effects) > 1 else "helps"
    return f"{names[0].upper()}{names[1:]} {does}, by a judge that took no part in the filtering.", "good"


def deciding_metrics() -> list[Metric]:
    """The metrics that a verdict reads; those of labels first, since labels are what most filters are for."""
    metrics = [metric for metric in all_metrics().values() if metric.error_bar]
    return sorted(metrics, key=lambda metric: "judge" not in metric.needs)


def _changes(before: Row, after: Row) -> Iterator[Change]:
    for metric in deciding_metrics():
        if metric.instruments(before) != metric.instruments(after):
            continue
        for key, column in metric.titled([before, after]).items():
            a, b = cell(before, key), cell(after, key)
            if column.better and isinstance(a, Measured) and isinstance(b, Measured):
                gain = a.value - b.value if column.better == "lower" else b.value - a.value
                yield Change(column, a.value, b.value, gain, math.hypot(a.error or 0.0, b.error or 0.0))

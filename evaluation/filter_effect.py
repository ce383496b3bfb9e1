"""Does a filter help?  The same measures before and after it, on a judge that neither filtered nor labelled anything.

A filter helps where label agreement or KID gets better by more than two standard errors and the other does not get
worse by as much.  Both standard errors enter, as if the two sets were drawn apart; they share real images (and the
second set is often a part of the first), so the test is on the safe side.  The Fréchet distance is shown and does not
decide: it has no error bar, and between sets of unequal size it is biased.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["helps", "no difference", "harms", "mixed"]
SIGMAS = 2.0  # of the difference: about one in twenty differences of nothing is as large


@dataclass(frozen=True)
class Change:
    """One measure; `gain` is positive where the filter made it better, in its own unit, `error` its standard error."""

    measure: str
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
        return f"{self.claim}: {', '.join(_told(change) for change in self.changes)}{why}{self._remedy}."

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
            {"measure": c.measure, "before": c.before, "after": c.after, "gain": c.gain, "standard_error": c.error}
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


def filter_effects(rows: Mapping[str, Mapping[str, Any]], ratio_rejects: bool = True) -> list[FilterEffect]:
    """The filters that an evaluation's rows (`evaluate`: teacher, accepted, accepted, rho R) hold before and after.

    ratio_rejects: whether the density ratio rejected anything at sampling.  Rows of different feature networks are
    never compared.
    """
    found = []
    if ratio_rejects and "teacher" in rows and "accepted" in rows:
        found.append(_effect("density ratio", rows, "teacher", "accepted"))
    for name in rows:
        if name.startswith("accepted, rho ") and "accepted" in rows and name != "accepted, rho 1":
            found.append(_effect(f"error filter at {name.removeprefix('accepted, ')}", rows, "accepted", name))
    return [effect for effect in found if effect.changes]


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


def _effect(name: str, rows: Mapping[str, Mapping[str, Any]], before: str, after: str) -> FilterEffect:
    a, b = rows[before], rows[after]
    changes: list[Change] = []
    if a["protocol"].get("feature_network_digest") == b["protocol"].get("feature_network_digest"):
        kernel = [row.get("kernel_distance") for row in (a, b)]
        if kernel[0] and kernel[1]:
            changes.append(_change("KID", kernel[0], kernel[1], "mean", lower=True))
    agreement = [row.get("label_agreement") for row in (a, b)]
    if agreement[0] and agreement[1] and agreement[0]["judge_digest"] == agreement[1]["judge_digest"]:
        lower = agreement[0]["measure"] == "mae"
        changes.insert(
            0, _change("label error" if lower else "label agreement", agreement[0], agreement[1], "value", lower)
        )
    return FilterEffect(name, before, after, tuple(changes))


def _change(measure: str, a: Mapping[str, Any], b: Mapping[str, Any], key: str, lower: bool) -> Change:
    before, after = float(a[key]), float(b[key])
    error = math.hypot(float(a["standard_error"] or 0.0), float(b["standard_error"] or 0.0))
    return Change(measure, before, after, before - after if lower else after - before, error)


def _told(change: Change) -> str:
    if change.measure == "label agreement":
        before, after, error, unit = 100 * change.before, 100 * change.after, 100 * change.error, " %"
    elif change.measure == "KID":
        before, after, error, unit = 1e3 * change.before, 1e3 * change.after, 1e3 * change.error, " × 10⁻³"
    else:
        before, after, error, unit = change.before, change.after, change.error, ""
    return f"{change.measure} {before:.2f} → {after:.2f}{unit} (± {error:.2f})".replace("-", "−")

"""The calibration of a dataset of fakes: its numbers, its filter's card, its newest evaluation, and the warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.filter_effect import FilterEffect
from image_data.fake import FakeDataset
from image_data.fake.warnings import Warned

_GRAVE = ("starving", "collapsed", "memorised", "kept")
_CARD_NUMBERS = ("mean_ratio", "ratio_spread_on_fakes", "is_constant", "stopped_at_step", "real_images")


@dataclass(frozen=True, eq=False)
class Calibration:
    """`described` is `describe_fakes`; `card` the filter's, `rows` the evaluation's, `variety` of the sampled images,
    each None where it is not there or not needed; `missing` says which command makes what is not there.
    """

    fakes: FakeDataset
    described: dict[str, Any]
    filter: Path | None
    card: dict[str, Any] | None
    evaluation: Path | None
    rows: dict[str, Any] | None
    variety: dict[str, Any] | None
    effects: Sequence[FilterEffect]
    warnings: Sequence[Warned]
    missing: Sequence[str]

    @property
    def sentences(self) -> list[str]:
        """All warnings as sentences that begin with a capital."""
        return [warned.text[:1].upper() + warned.text[1:] for warned in self.warnings]

    @property
    def expected_on_reals(self) -> float | None:
        """E over real images of r by theory: E over the candidates of r² / E over the candidates of r.

        It holds for r = p_real / p_teacher times any constant, since E_real[r] = E_teacher[r p_real / p_teacher].
        """
        ratio = self.described["candidate_ratio"]
        return None if ratio is None else float(ratio["mean"] * (1.0 + ratio["spread"] ** 2))

    def to_json(self) -> dict[str, Any]:
        """Everything, for --json."""
        card = None
        if self.card is not None:
            names = (*_CARD_NUMBERS, "ratio_percentiles")
            card = {"folder": str(self.filter), **{name: self.card[name] for name in names if name in self.card}}
        quality = None
        if self.rows is not None:
            filters = [effect.to_json() for effect in self.effects]
            quality = {"evaluation": str(self.evaluation), "rows": self.rows, "filters": filters}
        return {
            **self.described,
            "filter": card,
            "expected_ratio_on_reals": self.expected_on_reals,
            "variety": self.variety,
            "quality": quality,
            "warnings": [warned.to_json() for warned in self.warnings],
            "missing": list(self.missing),
            "worst_first": worst_first(self.described, self.warnings, own_errors(self.described)[1]),
        }


def worst_first(described: Mapping[str, Any], warnings: Sequence[Warned], errors: Sequence[Mapping[str, Any]]) -> list:
    """Places of the labels: grave warnings, other warnings, none; then lowest acceptance, then highest error, first."""
    severity: dict[str, int] = {}
    for one in warnings:
        for label in one.labels:
            worst = 0 if one.kind in _GRAVE else 1
            severity[str(label)] = min(worst, severity.get(str(label), worst))

    def badness(place: int) -> tuple[int, float, float]:
        entry = described["by_label"][place]
        error = errors[place].get("q0.5", 0.0) if errors else 0.0
        rate = entry["acceptance_rate"] if described["rejects"] else 1.0
        return (severity.get(str(entry["label"]), 2), rate, -error)

    return sorted(range(len(described["by_label"])), key=badness)


def own_errors(described: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """(digest, error quantiles of each label) of the first complete score set, the sampling run's own."""
    for digest, scores in described["scores"].items():
        return digest, scores["by_label"]
    return None, []

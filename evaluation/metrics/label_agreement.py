"""Whether images show the labels that were asked for, by a judge that neither filtered nor labelled anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.accuracy import per_image_errors, summary
from evaluation.metrics.registry import METRICS, ImageSets, Metric, Row
from evaluation.table import Column


@METRICS.register("label_agreement")
class LabelAgreement(Metric):
    """`label_agreement` is {measure, value, standard_error, images, unit, judge_digest}.

    `measure` is accuracy, or mae in the user's units.  None without a judge, and for one class.
    """

    columns = {"label_agreement": Column("label agreement", "%", decimals=2, scale=100, better="higher")}
    explanation = (
        "Whether the judge, which neither filtered nor labelled anything, sees the label that was asked for; for "
        "continuous labels, how far it is off."
    )
    needs = frozenset({"judge"})
    error_bar = "standard error over images"

    def smallest(self, feature_width: int) -> int:
        return 1

    def refusal(self, sets: ImageSets) -> str | None:
        if sets.label_space.kind == "classes" and sets.label_space.width == 1:
            return "label agreement is not measured with one class: any judge would agree."
        return super().refusal(sets)

    def measure(self, sets: ImageSets) -> dict[str, Any]:
        """Images are held to the labels asked of the teacher, so that relabelling cannot flatter the score."""
        judge, space = sets.judge, sets.label_space
        assert judge is not None  # or it was refused
        asked = getattr(sets.fake, "asked_labels", None)
        labels = None if asked is None else asked(np.arange(len(sets.fake)))
        errors = per_image_errors(judge, sets.fake, space, labels=labels)
        entry = {**summary(errors, space), "judge_digest": judge.card["digest"]}
        del entry["per_image"]
        if space.kind == "classes":
            entry |= {"measure": "accuracy", "value": 1.0 - entry["value"]}
        return {"label_agreement": entry}

    def titled(self, rows: Sequence[Row]) -> Mapping[str, Column]:
        entry = next((row["label_agreement"] for row in rows if row.get("label_agreement")), None)
        if entry is None or entry["measure"] == "accuracy":
            return self.columns
        return {"label_agreement": Column("label error", entry["unit"], decimals=2, better="lower")}

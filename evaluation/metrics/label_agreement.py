"""Whether images show the labels that were asked for, by a judge that neither filtered nor labelled anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.accuracy import errors_of_outputs, standard_error
from evaluation.features import READ_ROWS
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
        assert sets.judge is not None
        errors = []
        for start in range(0, len(sets.fake), READ_ROWS):
            rows = np.arange(start, min(start + READ_ROWS, len(sets.fake)))
            outputs = sets.judge(sets.fake.images(rows)).numpy()
            errors.append(errors_of_outputs(outputs, sets.fake.asked_labels(rows), sets.label_space))
        values = np.concatenate(errors)
        classes = sets.label_space.kind == "classes"
        entry = {
            "measure": "accuracy" if classes else "mae",
            "value": float(1.0 - values.mean() if classes else values.mean()),
            "standard_error": standard_error(values),
            "images": len(values),
            "unit": "" if classes else str(sets.label_space.to_json().get("unit", "")),
            "judge_digest": sets.judge.card["digest"],
        }
        return {"label_agreement": entry}

    def titled(self, rows: Sequence[Row]) -> Mapping[str, Column]:
        entry = next((row["label_agreement"] for row in rows if row.get("label_agreement")), None)
        if entry is None or entry["measure"] == "accuracy":
            return self.columns
        return {"label_agreement": Column("label error", entry["unit"], decimals=2, better="lower")}

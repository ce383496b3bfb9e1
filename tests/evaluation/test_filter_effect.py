"""Does a filter help: verdicts from an evaluation's rows, and what is never compared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.filter_effect import filter_effects, one_line


def row(agreement: float = 0.9, kernel: float = 1e-3, network: str = "a", measure: str = "accuracy") -> dict[str, Any]:
    return {
        "metric": "FD-judge",
        "score": 0.02,
        "images": {"fake": 1000, "real": 500},
        "kernel_distance": {"mean": kernel, "standard_error": 1e-4},
        "label_agreement": {
            "measure": measure,
            "value": agreement,
            "standard_error": 0.01,
            "unit": "",
            "judge_digest": "j",
        },
        "protocol": {"feature_network_digest": network},
    }


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (row(0.95), "helps"),
        (row(kernel=0.5e-3), "helps"),
        (row(0.92), "no difference"),
        (row(0.80), "harms"),
        (row(0.95, 2e-3), "mixed"),
    ],
)
def test_verdicts(after: dict[str, Any], verdict: str) -> None:
    (effect,) = filter_effects({"teacher": row(), "accepted": after, "student": row(0.1)})
    assert effect.verdict == verdict
    assert effect.to_json()["verdict"] == verdict
    assert effect.sentence.startswith("the density ratio ")
    assert effect.sentence.endswith(".")
    line, tone = one_line([effect])
    assert (tone == "good") == (verdict == "helps")
    assert ("does not beat its absence" in line) == (verdict == "no difference")


@given(st.floats(0.5, 1.0), st.floats(0.5, 1.0), st.floats(0.0, 5e-3), st.floats(0.0, 5e-3))
def test_the_other_way_round_is_the_opposite(a: float, b: float, k: float, m: float) -> None:
    opposite = {"helps": "harms", "harms": "helps", "mixed": "mixed", "no difference": "no difference"}
    (there,) = filter_effects({"teacher": row(a, k), "accepted": row(b, m)})
    (back,) = filter_effects({"teacher": row(b, m), "accepted": row(a, k)})
    assert back.verdict == opposite[there.verdict]
    assert [change.gain for change in back.changes] == [-change.gain for change in there.changes]


def test_both_filters_in_their_order() -> None:
    rows = {"teacher": row(0.8), "accepted": row(0.9), "accepted, rho 0.9": row(0.97)}
    found = filter_effects(rows)
    assert [(effect.name, effect.before) for effect in found] == [
        ("density ratio", "teacher"),
        ("error filter at rho 0.9", "accepted"),
    ]
    assert one_line(found)[1] == "good"
    assert [effect.name for effect in filter_effects(rows, ratio_rejects=False)] == ["error filter at rho 0.9"]
    both = filter_effects({"teacher": row(), "accepted": row(), "accepted, rho 0.9": row()})
    line, tone = one_line(both)
    assert tone == "mixed"
    assert line.count("does not beat its absence") == 2


def test_continuous_labels_gain_by_a_smaller_error() -> None:
    rows = {"teacher": row(5.0, measure="mae"), "accepted": row(4.0, measure="mae")}
    (effect,) = filter_effects(rows)
    assert effect.verdict == "helps"
    assert effect.changes[0].column.name == "label error"
    assert effect.changes[0].gain == pytest.approx(1.0)


def test_what_cannot_be_compared_is_left_out() -> None:
    other = row(network="b")
    (effect,) = filter_effects({"teacher": row(), "accepted": other})
    assert [change.column.name for change in effect.changes] == ["label agreement"]
    other["label_agreement"] = other["label_agreement"] | {"judge_digest": "another"}
    assert filter_effects({"teacher": row(), "accepted": other}) == []
    assert filter_effects({"teacher": row(), "student": row()}) == []
    assert filter_effects({"accepted": row(), "accepted, rho 1": row()}) == []
    assert one_line([]) == ("", "plain")
    bare = row() | {"kernel_distance": None, "label_agreement": None}
    assert filter_effects({"teacher": bare, "accepted": bare}) == []


def test_no_error_bar_and_no_difference() -> None:
    sure = row(1.0)
    sure["label_agreement"]["standard_error"] = None
    (effect,) = filter_effects({"teacher": sure, "accepted": sure})
    assert effect.verdict == "no difference"

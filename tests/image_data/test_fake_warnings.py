"""Warnings about fakes: each fault is named with its label and a remedy, and a sound dataset gives none."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_data.fake import warnings as rules
from image_data.fake.variety import distances, spaced
from image_data.fake.warnings import label_name, warnings_of
from image_data.percentiles import percentiles, values_from


def sound(labels: int = 12, candidates: int = 4000, rate: float = 0.4) -> dict[str, Any]:
    """The description of a dataset without a fault."""
    entries = [
        {
            "label": label,
            "images": 1000,
            "candidates": candidates,
            "accepted": int(rate * candidates),
            "acceptance_rate": rate,
            "ceiling": 2.5,
            "clipped_mass": 0.002,
            "mean_ratio": 1.0,
            "ratio_deviation": 0.5,
        }
        for label in range(labels)
    ]
    return {
        "label_space": {"kind": "classes", "names": [f"class{label}" for label in range(labels)]},
        "per_label": 1000,
        "rejects": True,
        "candidates": labels * candidates,
        "acceptance_rate": rate,
        "clipped_mass": 0.002,
        "candidate_ratio": {"mean": 1.0, "spread": 0.5, "percentiles": [1.0] * 101},
        "by_label": entries,
        "nearest": None,
    }


def card(**changes: Any) -> dict[str, Any]:
    """A filter's card without a fault."""
    means = {"train_reals": 1.3, "held_out_reals": 1.2, "held_out_fakes": 0.95} | changes.pop("means", {})
    numbers = {"is_constant": False, "ratio_spread_on_fakes": 0.5, "real_images": {"train": 800, "held_out": 200}}
    return {"mean_ratio": means, **numbers, **changes}


def varied(labels: int = 12) -> dict[str, Any]:
    entry = {"images": 32, "mean_distance": 40.0, "near_identical_share": 0.0}
    return {"typical_distance": 40.0, "by_label": [{"label": label, **entry} for label in range(labels)]}


def nearest(labels: int = 12, **changes: float) -> dict[str, Any]:
    shares = {"memorised_share": 0.01, "duplicate_share": 0.3, "duplicate_share_sparse": 0.01}
    return {**shares, **changes, "by_label": [{"label": label, **shares} for label in range(labels)]}


def kinds(*arguments: Any, **named: Any) -> list[str]:
    return [warned.kind for warned in warnings_of(*arguments, **named)]


@given(st.integers(1, 300), st.integers(50, 5000), st.floats(0.03, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_sound_dataset_gives_no_warning(labels: int, candidates: int, rate: float) -> None:
    assert warnings_of(sound(labels, candidates, rate), card(), varied(labels)) == []
    assert warnings_of(sound(labels, candidates, rate) | {"nearest": nearest(labels)}, card()) == []


FAULTS = {
    "starving": lambda d: d["by_label"][3].update(acceptance_rate=0.05, ceiling=20.0),
    "mean ratio of a label": lambda d: d["by_label"][3].update(mean_ratio=0.3),
    "clipped": lambda d: d["by_label"][3].update(clipped_mass=0.2),
}


@pytest.mark.parametrize("kind", sorted(FAULTS))
@pytest.mark.parametrize("count", [1, 3, 9])
def test_faulty_labels_are_named_in_one_sentence_with_a_remedy(kind: str, count: int) -> None:
    described = sound(40)
    for label in range(count):
        part = {"by_label": described["by_label"][label : label + 1] * 4}
        FAULTS[kind](part)
    (warned,) = warnings_of(described, card(), varied(40))
    assert warned.kind == kind
    assert set(warned.labels) == set(range(count))
    assert warned.text.endswith(".")
    assert len(re.findall(r"class\d+", warned.text)) == min(count, 3)
    assert (f"and {count - 3} more" in warned.text) == (count > 3)
    assert "--" in warned.text
    assert warned.to_json()["labels"] == list(warned.labels)


@given(st.lists(st.floats(0.001, 1.0), min_size=3, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_starving_follows_the_rule_and_no_order(rates: list[float], random: Any) -> None:
    """Against the plain definition; the order of the labels changes nothing; a lower rate never ends the warning."""
    described = sound(len(rates), 4000)
    for entry, rate in zip(described["by_label"], rates, strict=True):
        entry["acceptance_rate"] = rate
    error = [np.sqrt(max(rate, 1 / 4000) * (1 - rate) / 4000) for rate in rates]
    want = {i for i, rate in enumerate(rates) if rate + 3 * error[i] < 0.25 * float(np.median(rates))}
    found = {label for one in warnings_of(described) if one.kind == "starving" for label in one.labels}
    assert found == want
    shuffled = copy.deepcopy(described)
    random.shuffle(shuffled["by_label"])
    assert {label for one in warnings_of(shuffled) if one.kind == "starving" for label in one.labels} == want
    if want:
        worst = min(want, key=lambda label: rates[label])
        described["by_label"][worst]["acceptance_rate"] /= 2
        assert worst in {label for one in warnings_of(described) for label in one.labels}


def test_few_candidates_are_no_evidence_of_starving() -> None:
    described = sound()
    described["by_label"][2].update(acceptance_rate=0.06, candidates=30)
    assert kinds(described) == []
    described["by_label"][2].update(candidates=3000)
    assert kinds(described) == ["starving"]
    assert kinds(described | {"rejects": False}) == []
    described["by_label"][2].update(acceptance_rate=0.4, images=999)
    assert kinds(described) == ["starving"]  # fewer fakes than asked for
    assert "forward passes" in warnings_of(sound(rate=0.01))[0].text


def test_the_remedy_for_a_starving_label_depends_on_its_ratios() -> None:
    peaked, poor = sound(), sound()
    peaked["by_label"][0].update(acceptance_rate=0.05, ceiling=30.0)
    poor["by_label"][0].update(acceptance_rate=0.05)
    assert "--ceiling-quantile" in warnings_of(peaked)[0].text
    assert "train the teacher longer" in warnings_of(poor)[0].text


@pytest.mark.parametrize(("mean", "warned"), [(0.5, True), (0.7, False), (1.4, False), (3.0, True)])
def test_the_mean_ratio_of_candidates_is_held_against_one(mean: float, warned: bool) -> None:
    described = sound()
    described["candidate_ratio"]["mean"] = mean
    for entry in described["by_label"]:
        entry["mean_ratio"] = mean
    found = warnings_of(described, card())
    assert [one.kind for one in found] == (["mean ratio"] if warned else [])
    assert all("theory says 1" in one.text and f"{mean:.2f}" in one.text for one in found)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"means": {"held_out_reals": 0.6}}, "mean ratio on reals"),
        ({"means": {"held_out_reals": 9.0, "train_reals": 9.5}}, "mean ratio on reals"),
        ({"means": {"train_reals": 2.5}}, "overfitted"),
        ({"is_constant": True}, "constant ratio"),
    ],
)
def test_the_filters_card_is_held_against_theory(changes: dict[str, Any], kind: str) -> None:
    found = warnings_of(sound(), card(**changes))
    assert kind in [one.kind for one in found]
    assert "fit-filter" in found[0].text


def test_a_nearly_constant_ratio_and_no_ratio() -> None:
    described = sound()
    described["candidate_ratio"]["spread"] = 0.04
    assert kinds(described) == ["constant ratio"]
    bare = sound() | {"candidate_ratio": None, "rejects": False}
    assert kinds(bare, None, varied()) == []


def test_collapse_comes_from_the_distances_where_there_are_any_and_else_from_the_images() -> None:
    variety = varied()
    variety["by_label"][4].update(mean_distance=2.0, near_identical_share=1.0)
    found = warnings_of(sound(), None, variety)
    assert [(one.kind, one.labels) for one in found] == [("collapsed", (4,))]
    assert "score --nearest" in found[0].text
    variety["by_label"][4].update(mean_distance=39.0, near_identical_share=0.8)  # a few images, again and again
    assert kinds(sound(), None, variety) == ["collapsed"]
    measured = sound() | {"nearest": nearest()}
    assert kinds(measured, None, variety) == []
    measured["nearest"]["by_label"][4]["duplicate_share_sparse"] = 0.6
    assert [(one.kind, one.labels) for one in warnings_of(measured)] == [("collapsed", (4,))]
    assert kinds(sound(), None, varied() | {"typical_distance": 0.5}) == ["collapsed"]


def test_copies_of_training_images() -> None:
    measured = sound() | {"nearest": nearest()}
    measured["nearest"]["by_label"][1]["memorised_share"] = 0.4
    assert [(one.kind, one.labels) for one in warnings_of(measured)] == [("memorised", (1,))]
    assert kinds(measured | {"per_label": 3}) == []  # one of three images is no evidence
    whole = sound() | {"nearest": nearest(memorised_share=0.2)}
    assert "memorisation_distance" in warnings_of(whole)[0].text


def test_what_keep_leaves() -> None:
    left = {"keep": "density_ratio > 1", "by_label": [{"label": label, "images": 500} for label in range(12)]}
    assert kinds(sound(), kept=left) == []
    left["by_label"][7]["images"] = 20
    assert [(one.kind, one.labels) for one in warnings_of(sound(), kept=left)] == [("kept", (7,))]
    gone = left | {"by_label": left["by_label"][1:]}
    assert set(warnings_of(sound(), kept=gone)[0].labels) == {0, 7}
    assert kinds(sound(), kept=gone | {"keep": "label >= 1"}) == []  # left out by name


def test_names_of_labels() -> None:
    assert label_name({"kind": "classes", "names": ["cat", "dog"]}, 1) == "dog"
    assert label_name({"kind": "continuous", "unit": "degrees"}, -12.5) == "-12.5 degrees"
    assert label_name({"kind": "continuous", "unit": ""}, [1.0, 2.5]) == "1, 2.5"


def test_thresholds_leave_room_for_real_digits() -> None:
    """Numbers of real images must not warn: their nearest neighbours, and the least varied digit."""
    from image_data.real import load_real

    train = load_real("digits").train
    groups = [train.images(np.flatnonzero(train.labels == digit)[:32]) for digit in range(10)]
    found = [distances(group) for group in groups]
    typical = float(np.median([pairs.mean() for pairs, _ in found]))
    assert min(float(pairs.mean()) for pairs, _ in found) > 2 * rules.LESS_VARIED * typical
    assert min(float(near.min()) for _, near in found) > 0.1 * typical


def test_distances_are_root_mean_squares() -> None:
    images = np.random.default_rng(3).integers(0, 256, (7, 3, 5, 4), dtype=np.uint8)
    images[5] = images[2]
    pairs, near = distances(images)
    flat = images.reshape(7, -1).astype(np.float64)
    apart = np.array([[np.sqrt(((a - b) ** 2).mean()) for b in flat] for a in flat])
    np.testing.assert_allclose(pairs, apart[np.triu_indices(7, 1)], atol=1e-6)
    np.testing.assert_allclose(near, np.where(np.eye(7, dtype=bool), np.inf, apart).min(axis=1), atol=1e-6)
    assert near[2] == pytest.approx(0.0, abs=1e-6)
    assert [len(part) for part in distances(images[:1])] == [0, 0]


@given(st.integers(0, 200), st.integers(1, 50))
def test_spaced_rows_are_distinct_and_no_more_than_asked(rows: int, count: int) -> None:
    found = spaced(np.arange(rows) * 3, count)
    assert len(found) == min(rows, count)
    assert (np.diff(found) > 0).all()


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=400))
@settings(max_examples=60, deadline=None)
def test_percentiles_hold_the_distribution(values: list[float]) -> None:
    found = percentiles(np.array(values, dtype=np.float32))
    assert len(found) == 101
    assert found == sorted(found)
    assert found[0] == pytest.approx(min(values), rel=1e-4, abs=1e-6)
    assert found[50] == pytest.approx(float(np.median(values)), rel=1e-4, abs=1e-4)
    drawn = values_from(found)
    assert (np.diff(drawn) >= 0).all()
    assert drawn[-1] == found[-1]
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), np.quantile(values, [0.1, 0.5, 0.9]), atol=1.1)


def test_percentiles_of_nothing_and_of_what_is_not_finite() -> None:
    assert percentiles(np.zeros(0)) == []
    assert len(values_from([])) == 0
    assert set(percentiles(np.array([np.nan, 2.0, np.inf]))) == {2.0}


def scored(described: dict[str, Any], medians: dict[Any, float], usual: float = 0.2) -> dict[str, Any]:
    """The description with one predictor's errors: `usual` but for these labels."""
    labels = [entry["label"] for entry in described["by_label"]]
    entries = [{"label": label, "mean": 1.0, "q0.5": medians.get(label, usual)} for label in labels]
    return described | {"scores": {"ab" * 32: {"error": {"mean": 1.0, "q0.5": usual}, "by_label": entries}}}


def test_a_predictor_that_is_worse_than_guessing_is_named() -> None:
    assert kinds(scored(sound(12), {3: 2.4})) == []  # ln 12 = 2.48
    (warned,) = warnings_of(scored(sound(12), {3: 6.7, 5: 12.2}))
    assert warned.kind == "teacher error"
    assert warned.labels == (5, 3)
    assert "labels class5 and class3" in warned.text
    assert "12.2 nats" in warned.text
    assert "ln(classes), has 2.48" in warned.text
    assert "another order" in warned.text
    assert kinds(scored(sound(1), {0: 9.0})) == []  # of one class everything is right
    assert kinds(scored(sound(12) | {"per_label": 2}, {3: 6.7})) == []
    assert kinds(scored(sound(12) | {"per_label": 2}, {}, 3.0)) == ["teacher error"]


def test_a_regressor_that_is_worse_than_the_middle_label_is_named() -> None:
    described = sound(9) | {"label_space": {"kind": "continuous", "unit": "degrees", "low": 0, "high": 80}}
    for place, entry in enumerate(described["by_label"]):
        entry["label"] = 10.0 * place
    assert kinds(scored(described, {20.0: 22.0})) == []  # the middle label, 40, is off by 22.2 on average
    (warned,) = warnings_of(scored(described, {20.0: 31.0}))
    assert warned.labels == (20.0,)
    assert "31 degrees" in warned.text
    assert "another unit" in warned.text

"""Selection: exact counts, lowest errors, relabelling, and errors that name the option."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import select
from filters.selection import balanced_quotas, lowest_share
from image_data.fake import Selection
from image_data.labels import ClassLabels, ContinuousLabels
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.plan import LabelPlan
from teacher_sampler.sampling.sampler import sample
from tests.support.columns_of_fakes import Fakes
from tests.support.tiny_sampling import CLASSES, TinyParts, save_tiny_teacher, tiny_settings


def make_fakes(count: int, classes: int, seed: int, ties: bool = False) -> Fakes:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    error = random.integers(0, 3, count) if ties else random.random(count)
    output = random.normal(size=(count, classes)).astype(np.float16)
    space = ClassLabels(tuple(f"c{index}" for index in range(classes)))
    return Fakes(labels, space, error.astype(np.float32), output)


def make_angles(count: int) -> Fakes:
    random = np.random.default_rng(3)
    labels = random.uniform(-60, 60, count)
    output = (labels + random.normal(0, 20, count)).astype(np.float32)
    space = ContinuousLabels(-60.0, 60.0, "degrees")
    return Fakes(labels, space, np.abs(output - labels).astype(np.float32), output)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 80),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    tenths=st.integers(1, 20),
    ties=st.booleans(),
    scope=st.sampled_from(["class", "global"]),
)
def test_exactly_the_lowest_errors_stay(
    count: int, classes: int, seed: int, tenths: int, ties: bool, scope: str
) -> None:
    fakes, rho = make_fakes(count, classes, seed, ties), tenths / 20
    found = select(fakes, rho=rho, scope=scope)
    groups = [fakes.labels == value for value in range(classes)] if scope == "class" else [np.ones(count, dtype=bool)]
    assert (np.diff(found.rows) > 0).all()
    for group in groups:
        mine = found.rows[group[found.rows]]
        assert len(mine) == -(-tenths * int(group.sum()) // 20)
        slow = sorted(np.flatnonzero(group), key=lambda row: (fakes.error[row], row))[: len(mine)]
        assert sorted(slow) == mine.tolist()
    np.testing.assert_array_equal(found.labels, fakes.labels[found.rows])
    assert found.fakes_digest == fakes.digest
    assert json.loads(json.dumps(found.recipe)) == found.recipe
    assert found.recipe["selected"] == len(found.rows)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    seed=st.integers(0, 99),
    rho=st.sampled_from([0.1, 0.5, 0.75, 0.9]),
    ties=st.booleans(),
    scope=st.sampled_from(["class", "global"]),
)
def test_the_strict_cut_is_the_published_rule(count: int, seed: int, rho: float, ties: bool, scope: str) -> None:
    """error < alpha, alpha the rho-quantile by linear interpolation between sorted errors, by hand."""
    fakes = make_fakes(count, 3, seed, ties)
    found = select(fakes, rho=rho, scope=scope, cut="strict")
    slow = []
    for row in range(count):
        same = fakes.labels == fakes.labels[row] if scope == "class" else np.ones(count, dtype=bool)
        ordered = np.sort(fakes.error[same].astype(np.float64))
        place = rho * (len(ordered) - 1)
        low = int(place)
        alpha = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
        tied = ordered[low] == ordered[min(low + 1, len(ordered) - 1)]
        if not tied and abs(fakes.error[row] - alpha) < 1e-9:  # equal but for rounding: either is right
            slow += [row] if row in found.rows else []
        elif fakes.error[row] < alpha:
            slow.append(row)
    assert found.rows.tolist() == slow
    assert set(found.rows) <= set(select(fakes, rho=rho, scope=scope).rows)
    assert found.recipe["cut"] == "strict"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.data())
def test_quotas_are_exact_even_and_within_reach(available: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(available)))
    quotas = balanced_quotas(np.array(available), total, seed=4)
    assert quotas.sum() == total
    assert (quotas <= available).all()
    unfilled = quotas[quotas < available]
    if len(unfilled):  # a class that could give more never has two fewer than another
        assert unfilled.min() >= quotas.max() - 1


def test_counts_by_label_and_in_all() -> None:
    fakes = make_fakes(600, 3, seed=1)
    each = select(fakes, rho=0.5, nfake_per_label=40, seed=7)
    assert np.bincount(fakes.labels[each.rows]).tolist() == [40, 40, 40]
    kept = set(select(fakes, rho=0.5).rows.tolist())
    assert set(each.rows.tolist()) <= kept
    again = select(fakes, rho=0.5, nfake_per_label=40, seed=7)
    np.testing.assert_array_equal(each.rows, again.rows)
    assert not np.array_equal(each.rows, select(fakes, rho=0.5, nfake_per_label=40, seed=8).rows)
    total = select(fakes, nfake=200, seed=7)
    assert sorted(np.bincount(fakes.labels[total.rows]).tolist()) == [66, 67, 67]
    assert len(np.unique(total.rows)) == 200


def test_no_scores_are_needed_for_rho_one() -> None:
    fakes = make_fakes(20, 2, seed=0)
    fakes.sets = ()
    found = select(fakes)
    np.testing.assert_array_equal(found.rows, np.arange(20))
    assert found.recipe["scores"] is None
    for request in ({"rho": 0.9}, {"relabel": True}):
        with pytest.raises(UserError, match="run `score`"):
            select(fakes, **request)


def test_relabelling_classes_and_angles() -> None:
    fakes = make_fakes(50, 4, seed=2)
    found = select(fakes, rho=0.6, relabel=True)
    np.testing.assert_array_equal(found.labels, fakes.output[found.rows].argmax(axis=1))
    assert found.labels.dtype == np.int64
    assert found.recipe["relabelled"] == int((found.labels != fakes.labels[found.rows]).sum())
    angles = make_angles(200)
    turned = select(angles, rho=0.7, relabel=True)
    assert turned.recipe["scope"] == "global"
    assert len(turned.rows) == 140
    assert turned.labels.dtype == np.float64
    np.testing.assert_allclose(turned.labels, np.clip(angles.output[turned.rows].astype(np.float64), -60, 60))
    assert len(select(angles, rho=0.7, nfake=33).rows) == 33


def test_repeated_continuous_labels_count_as_groups() -> None:
    angles = make_angles(60)
    angles.labels = np.repeat([-10.0, 0.0, 20.0], 20)
    found = select(angles, rho=0.5, scope="class", nfake_per_label=4)
    assert np.unique(angles.labels[found.rows], return_counts=True)[1].tolist() == [4, 4, 4]


def test_a_selection_survives_its_file(tmp_path: Path) -> None:
    found = select(make_fakes(50, 4, seed=2), rho=0.3, relabel=True)
    found.save(tmp_path / "s.safetensors")
    again = Selection.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(again.rows, found.rows)
    assert again.recipe == found.recipe


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"rho": 0.0}, "--rho is 0"),
        ({"rho": 1.01}, "--rho is 1.01"),
        ({"rho": float("nan")}, "--rho is nan"),
        ({"nfake": 5, "nfake_per_label": 2}, "give one of them"),
        ({"nfake": 0}, "--nfake is 0"),
        ({"nfake_per_label": -1}, "--nfake-per-label is -1"),
        ({"nfake": 81}, "only 80 fakes are left"),
        ({"rho": 0.5, "nfake_per_label": 60}, "label 1 has only 20 fakes left at rho 0.5"),
        ({"scope": "row"}, "scope"),
        ({"cut": "sharp"}, "the cut 'sharp'"),
    ],
)
def test_bad_requests_name_the_option(request_: dict, words: str) -> None:
    fakes = make_fakes(80, 2, seed=5)
    fakes.labels = np.arange(80) % 2
    fakes.labels[:] = np.sort(fakes.labels)
    if words.startswith("label 1"):
        fakes.labels = np.r_[np.zeros(120, dtype=np.int64), np.ones(40, dtype=np.int64)]
        fakes.error, fakes.output = np.arange(160, dtype=np.float32), np.zeros((160, 2), dtype=np.float16)
    with pytest.raises(UserError, match=words):
        select(fakes, **request_)


def test_an_error_that_is_no_number_is_refused() -> None:
    fakes = make_fakes(10, 2, seed=5)
    fakes.error[4] = np.nan
    with pytest.raises(UserError, match="row 4"):
        select(fakes, rho=0.5)


def test_selecting_from_a_sampled_dataset(tmp_path: Path) -> None:
    """The real store: sample, select, view; images and labels are those of the selected rows."""
    teacher = save_tiny_teacher(tmp_path / "teacher", CLASSES)
    parts, plan = TinyParts(teacher), LabelPlan.classes(CLASSES, 20)
    fakes = sample(parts, plan, tiny_settings(), tmp_path / "fakes", LocalEngine(1))
    found = select(fakes, rho=0.5, nfake_per_label=6, relabel=True)
    view = fakes.view(found)
    assert len(view) == 18
    np.testing.assert_array_equal(view.labels, found.labels)
    np.testing.assert_array_equal(view.images(np.arange(18)), fakes.images(found.rows))
    errors = fakes.scores().error
    for label in range(3):
        mine = found.rows[fakes.labels[found.rows] == label]
        assert len(mine) == 6
        assert errors[mine].max() <= np.sort(errors[fakes.labels == label])[9]


def test_the_typed_decimal_counts() -> None:
    assert len(lowest_share(np.zeros(30), np.zeros(30, dtype=np.int64), 0.1)) == 3

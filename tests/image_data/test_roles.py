"""Splits: exact and stratified ones of fixed data, ones that follow the images, and images that stand in two roles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_data.real.roles import (
    Split,
    cut_roles,
    leave_out_duplicates,
    rows_per_class,
    split_missing,
    strata_of,
    stratified_order,
)
from image_data.sources import ArraySource
from runtime.errors import UserError

FEW = settings(max_examples=25, deadline=None)


@FEW
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    seed=st.integers(0, 2**31),
    folds=st.integers(1, 3),
    data=st.data(),
)
def test_roles_are_exact_disjoint_and_stratified(counts: list[int], seed: int, folds: int, data: st.DataObject) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    total = len(labels)
    test = data.draw(st.integers(0, total // folds))
    val = data.draw(st.integers(0, total - test))
    train = data.draw(st.integers(0, total - test - val))
    sizes = {"train": train, "val": val, "test": test}
    pooled: list[int] = []
    for fold in range(folds):
        roles = cut_roles(labels, sizes, seed, "try", fold, folds)
        again = cut_roles(labels, sizes, seed, "try", fold, folds)
        together = np.concatenate(list(roles.values()))
        assert {role: len(rows) for role, rows in roles.items()} == sizes
        assert len(np.unique(together)) == len(together)
        assert all(np.array_equal(roles[role], again[role]) for role in sizes)
        for role, size in sizes.items():
            held = np.bincount(labels[roles[role]], minlength=len(counts))
            # One rounding for the cut of test, and one for the cut of what is left.
            assert np.abs(held - size * np.array(counts) / total).max() <= 4
        pooled += roles["test"].tolist()
    assert len(set(pooled)) == folds * test


@FEW
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=6), seed=st.integers(0, 2**31), data=st.data())
def test_every_slice_of_the_order_is_stratified(counts: list[int], seed: int, data: st.DataObject) -> None:
    strata = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(strata, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(strata)))
    begin = data.draw(st.integers(0, len(strata)))
    end = data.draw(st.integers(begin, len(strata)))
    held = np.bincount(strata[order[begin:end]], minlength=len(counts))
    assert np.abs(held - (end - begin) * np.array(counts) / len(strata)).max() <= 2


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        cut_roles(np.zeros(10, dtype=np.int64), {"train": 6, "val": 3, "test": 2}, 0, "try")
    with pytest.raises(ValueError, match="cannot cut"):
        cut_roles(np.zeros(10, dtype=np.int64), {"train": 1, "val": 1, "test": 4}, 0, "try", 0, 3)


def test_continuous_labels_are_cut_over_their_whole_range() -> None:
    labels = np.random.default_rng(0).uniform(-60, 60, 2000)
    assert np.bincount(strata_of(labels)).tolist() == [100] * 20
    rows = cut_roles(labels, {"train": 1400, "val": 300, "test": 300}, 0, "try")
    for part in rows.values():
        counts, _ = np.histogram(labels[part], bins=np.quantile(labels, np.linspace(0, 1, 21)))
        assert np.abs(counts - len(part) / 20).max() <= 3
    vectors = np.stack([labels, labels[::-1]], axis=1)
    assert np.array_equal(strata_of(vectors), strata_of(labels))
    assert strata_of(np.array([0.5, 0.5, 0.1])).tolist() == [1, 2, 0]


@FEW
@given(count=st.integers(1, 5), seed=st.integers(0, 100))
def test_rows_per_class_are_nested(count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), 6))
    few, more = rows_per_class(labels, count, seed, "try"), rows_per_class(labels, count + 1, seed, "try")
    assert set(few) < set(more)
    assert np.bincount(labels[few]).tolist() == [count] * 4


def test_rows_per_class_counts_images_of_each_continuous_value() -> None:
    labels = np.repeat([0.1, 0.3, 0.5], 4)
    assert labels[rows_per_class(labels, 2, 0, "try")].tolist() == [0.1, 0.1, 0.3, 0.3, 0.5, 0.5]
    with pytest.raises(UserError, match=r"label 0.1 has 4"):
        rows_per_class(labels, 5, 0, "try")
    pairs = np.stack([labels, labels], axis=1)
    assert len(rows_per_class(pairs, 2, 0, "try")) == 6


def pictures(numbers: list[int], classes: int = 4) -> ArraySource:
    """Different images, named by their numbers, whose class depends on the number alone."""
    pixels = np.zeros((len(numbers), 1, 4, 4), dtype=np.uint8)
    pixels[:, 0, 0] = np.array(numbers, dtype="<u4")[:, None].view(np.uint8)
    return ArraySource(pixels, np.array(numbers) % classes, names=[f"{number}.png" for number in numbers])


def roles_by_name(split: Split) -> dict[str, str]:
    return {name: role for role, part in split.roles.items() for name in part.names or ()}


@FEW
@given(numbers=st.lists(st.integers(0, 2**30), min_size=200, max_size=300, unique=True), data=st.data())
def test_adding_removing_and_reordering_images_moves_no_other(numbers: list[int], data: st.DataObject) -> None:
    before = split_missing({"train": pictures(numbers)}, "here")
    kept = numbers[: data.draw(st.integers(150, len(numbers)))]
    more = [number for number in data.draw(st.lists(st.integers(0, 2**30), max_size=60, unique=True))
            if number not in numbers]  # fmt: skip
    after = split_missing({"train": pictures(data.draw(st.permutations(kept + more)))}, "elsewhere")
    assert before.remarks == after.remarks == ()
    then, now = roles_by_name(before), roles_by_name(after)
    assert len(then) == len(numbers)
    assert len(now) == len(kept) + len(more)
    assert all(then[f"{number}.png"] == now[f"{number}.png"] for number in kept)


def test_roles_are_near_their_shares_and_the_label_has_no_say() -> None:
    train = pictures(list(range(4000)))
    split = split_missing({"train": train}, "here")
    assert split.split_off == ["val", "test"]
    for role in ("val", "test"):
        assert abs(len(split.roles[role]) - 600) < 4 * np.sqrt(4000 * 0.15 * 0.85)
    relabelled = split_missing({"train": replace(train, labels=train.labels[::-1])}, "here")
    assert roles_by_name(relabelled) == roles_by_name(split)
    given = split_missing({"train": train, "test": pictures([5000, 5001])}, "here", val_share=0.05)
    assert given.split_off == ["val"]
    assert len(given.roles["test"]) == 2
    both = split_missing({"train": train}, "here", val_share=0.05)  # a given test set does not move val
    assert set(both.roles["val"].names or ()) == set(given.roles["val"].names or ())


def test_equal_images_share_a_role_and_few_images_fill_all_three() -> None:
    for count in range(6, 40):
        numbers = list(range(count))
        split = split_missing({"train": pictures(numbers * 2, classes=2)}, "here")
        assert sum(map(len, split.roles.values())) == 2 * count
        assert all(len(part) for part in split.roles.values())
        assert np.bincount(split.roles["train"].labels, minlength=2).min() >= 2
        names = {role: set(part.names or ()) for role, part in split.roles.items()}
        assert sum(map(len, names.values())) == count
        again = split_missing({"train": pictures(numbers[::-1] * 2, classes=2)}, "here")
        assert {role: set(part.names or ()) for role, part in again.roles.items()} == names
    with pytest.raises(UserError, match="3 images are too few"):
        split_missing({"train": pictures([0, 1, 2])}, "here")
    with pytest.raises(UserError, match=r"20 images \(1 different\) are too few"):
        split_missing({"train": pictures([0] * 20)}, "here")


def test_duplicates_leave_what_scores_and_never_training() -> None:
    roles = {"train": pictures([1, 2, 3, 4]), "val": pictures([10, 2, 30, 11]), "test": pictures([30, 31, 4])}
    found, remarks = leave_out_duplicates(roles, "here")
    held = {role: list(part.names or ()) for role, part in found.items()}
    assert held["train"] == ["1.png", "2.png", "3.png", "4.png"]
    assert held["val"] == ["10.png", "11.png"]
    assert held["test"] == ["30.png", "31.png"]
    assert remarks == (
        "here: 1 of 3 test images are left out, because 4.png equals 4.png",
        "here: 2 of 4 val images are left out, because 2.png equals 2.png, 30.png equals 30.png",
    )
    with pytest.raises(UserError, match=r"all 2 val images are in train or test too .*leave val out"):
        leave_out_duplicates({**roles, "val": pictures([2, 31])}, "here")

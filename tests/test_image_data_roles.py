"""Splits: exact sizes, disjoint, stratified, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_data.real.roles import cut_roles, rows_per_class, split_missing, strata_of, stratified_order
from image_data.sources import ArraySource
from runtime.errors import UserError

FEW = settings(max_examples=40, deadline=None)


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


def test_missing_roles_are_split_off_once_and_for_all() -> None:
    labels = np.repeat(np.arange(4), 50)
    train = ArraySource(np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1), labels)
    roles, missing = split_missing({"train": train}, "here")
    assert missing == ["val", "test"]
    assert {role: len(part) for role, part in roles.items()} == {"train": 140, "val": 30, "test": 30}
    assert sorted(np.concatenate([part.pixels.reshape(-1) for part in roles.values()])) == list(range(200))
    again, _ = split_missing({"train": train}, "elsewhere")
    assert all(np.array_equal(roles[role].pixels, again[role].pixels) for role in roles)
    kept, missing = split_missing({"train": train, "test": train}, "here", val_size=7)
    assert missing == ["val"]
    assert {role: len(part) for role, part in kept.items()} == {"train": 193, "val": 7, "test": 200}
    with pytest.raises(UserError, match="3 images are too few"):
        split_missing({"train": train.subset(np.arange(3))}, "here")

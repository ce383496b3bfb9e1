"""Label spaces, sources and the order of training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image_data.batches import BatchOrder
from image_data.labels import ClassLabels, ContinuousLabels, label_space_from_json
from image_data.real import load_real
from image_data.sources import ArraySource, Concatenation
from interfaces import LabelSpace
from runtime.errors import UserError

FEW = settings(max_examples=50, deadline=None)
DIGITS = load_real("digits").val


@FEW
@given(width=st.integers(1, 300), seed=st.integers(0, 1000))
def test_classes_round_trip(width: int, seed: int) -> None:
    space = ClassLabels(tuple(f"class {index}" for index in range(width)))
    labels = np.random.default_rng(seed).integers(0, width, 20)
    encoded = space.encode(labels)
    assert encoded.dtype == torch.int64
    assert np.array_equal(space.decode(encoded), labels)
    space.check(labels, "here")
    assert space.width == width
    assert label_space_from_json(space.to_json()) == space


@FEW
@given(
    low=st.floats(-1e4, 1e4),
    span=st.floats(1e-3, 1e4),
    dimension=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_continuous_labels_round_trip(low: float, span: float, dimension: int, seed: int) -> None:
    high = low + span
    space = ContinuousLabels(low, high, "degrees", dimension)
    shape = (20,) if dimension == 1 else (20, dimension)
    labels = np.clip(low + np.random.default_rng(seed).random(shape) * span, low, high)
    space.check(labels, "here")
    encoded = space.encode(labels)
    assert encoded.dtype == torch.float32
    assert encoded.shape == (20, dimension)
    assert encoded.min() >= 0
    assert encoded.max() <= 1
    decoded = space.decode(encoded)
    assert decoded.dtype == np.float64
    assert np.allclose(decoded, labels, rtol=0, atol=span * 1e-7 + abs(low) * 1e-12)
    assert label_space_from_json(space.to_json()) == space


def test_the_ends_of_the_range_are_zero_and_one() -> None:
    space = ContinuousLabels(-60, 60, "degrees")
    assert space.encode(np.array([-60.0, 0.0, 60.0])).reshape(-1).tolist() == [0.0, 0.5, 1.0]
    assert space.decode(torch.tensor([[1.5]])).tolist() == [120.0]  # a wild prediction is not clipped
    assert isinstance(space, LabelSpace)
    assert isinstance(ClassLabels(("a",)), LabelSpace)


@pytest.mark.parametrize(
    ("space", "labels", "words"),
    [
        (ClassLabels(("a", "b")), np.array([0, 2]), "from 0 to 2.*2 classes"),
        (ClassLabels(("a", "b")), np.array([-1, 0]), "from -1 to 0"),
        (ClassLabels(("a", "b")), np.array([0.5]), "whole numbers"),
        (ClassLabels(("a", "b")), np.array([np.nan]), "whole numbers"),
        (ClassLabels(("a", "b")), np.array([[0], [1]]), "list of numbers"),
        (ContinuousLabels(0, 1, "m"), np.array([0.5, 1.5]), "from 0.5 to 1.5 m, outside the stated range 0 to 1"),
        (ContinuousLabels(0, 1), np.array([np.nan]), "not a finite number"),
        (ContinuousLabels(0, 1), np.zeros((3, 1)), r"shape \(3, 1\)"),
        (ContinuousLabels(0, 1, dimension=2), np.zeros((3, 3)), r"shape \(3, 3\)"),
    ],
)
def test_wrong_labels_name_their_source(space: LabelSpace, labels: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        space.check(labels, "photos.h5")
    assert str(caught.value).startswith("photos.h5")


@pytest.mark.parametrize(
    "description",
    [{}, {"kind": "words"}, {"kind": "classes"}, {"kind": "continuous", "low": 0}, {"kind": "continuous", "a": 1}],
)
def test_malformed_descriptions_are_refused(description: dict) -> None:
    with pytest.raises(UserError, match="label space"):
        label_space_from_json(description)


@FEW
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_a_concatenation_is_its_parts_in_a_row(sizes: list[int], seed: int) -> None:
    pixels, labels = DIGITS.pixels, DIGITS.labels
    ends = np.cumsum([0, *sizes])
    parts = [ArraySource(pixels[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    joined = Concatenation(parts)
    rows = np.random.default_rng(seed).integers(0, ends[-1], 25)
    assert len(joined) == ends[-1]
    assert np.array_equal(joined.labels, labels[: ends[-1]])
    assert np.array_equal(joined.images(rows), pixels[rows])


def test_sources_at_their_borders() -> None:
    data = load_real("digits")
    source = data.val.subset(np.array([3, 3, 1]))
    assert len(source) == 3
    assert np.array_equal(source.images(np.array([2])), data.val.pixels[1:2])
    assert not np.shares_memory(source.pixels, data.val.pixels)
    with pytest.raises(IndexError):
        Concatenation([source]).images(np.array([], dtype=np.int64))


@FEW
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    asked=st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
def test_the_order_depends_on_the_step_alone(count: int, batch_size: int, seed: int, asked: list[int]) -> None:
    whole = np.concatenate([BatchOrder(count, batch_size, seed, "try").rows(step) for step in range(61)])
    resumed = BatchOrder(count, batch_size, seed, "try")
    for step in asked:  # in any order, as after a kill
        assert np.array_equal(resumed.rows(step), whole[step * batch_size : (step + 1) * batch_size])
    for epoch in range(len(whole) // count):
        assert sorted(whole[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_is_elastic_in_the_batch_size() -> None:
    """The joined epochs do not depend on how they are cut into batches."""
    by_seven = np.concatenate([BatchOrder(50, 7, 1, "try").rows(step) for step in range(20)])
    by_twenty = np.concatenate([BatchOrder(50, 20, 1, "try").rows(step) for step in range(7)])
    assert np.array_equal(by_seven, by_twenty)
    assert not np.array_equal(by_seven, np.concatenate([BatchOrder(50, 7, 2, "try").rows(step) for step in range(20)]))
    assert not np.array_equal(by_seven, np.concatenate([BatchOrder(50, 7, 1, "two").rows(step) for step in range(20)]))
    with pytest.raises(ValueError, match="cannot draw"):
        BatchOrder(0, 7, 1, "try")

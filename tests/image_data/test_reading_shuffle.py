"""Orders that are computed: bijections against a NumPy twin, uniform, continued anywhere, mixed at the stated share."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_data import shuffle
from image_data.shuffle import ShuffledRows, TrainingOrder
from runtime.errors import UserError
from runtime.seeds import numpy_generator


def twin(count: int, seed: int, purpose: str, place: int) -> int:
    """One place by plain Python integers: Feistel rounds over (low, high), walked until the number is a row."""
    epoch, number = divmod(place, count)
    bits = max(6, (count - 1).bit_length())
    low_bits, high_bits = bits // 2, bits - bits // 2
    keys = numpy_generator(seed, purpose).integers(0, 1 << 32, size=8, dtype=np.uint32).tolist()

    def scramble(half: int, key: int) -> int:
        mixed = ((half ^ key) * 0x9E3779B1) % 2**32
        mixed ^= mixed >> 15
        mixed = (mixed * 0x85EBCA6B) % 2**32
        mixed ^= mixed >> 13
        return (mixed * 0x9E3779B1) % 2**32

    while True:
        low, high = number % 2**low_bits, number >> low_bits
        for turn, base in enumerate(keys):
            key = scramble(epoch, base)
            if turn % 2:
                low ^= scramble(high, key) >> (32 - low_bits)
            else:
                high ^= scramble(low, key) >> (32 - high_bits)
        number = (high << low_bits) | low
        if number < count:
            return number


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_every_epoch_is_a_bijection(count: int, seed: int, epoch: int) -> None:
    rows = ShuffledRows(count, seed, "test").at(np.arange(epoch * count, (epoch + 1) * count))
    assert np.array_equal(np.sort(rows), np.arange(count))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 2**45), seed=st.integers(0, 2**40), place=st.integers(0, 2**50))
def test_equal_to_the_twin(count: int, seed: int, place: int) -> None:
    assert ShuffledRows(count, seed, "test").at(np.array([place]))[0] == twin(count, seed, "test", place)


def test_orders_are_uniform() -> None:
    """Chi-square of all orders of 3 and 5 rows, of each row at each place, and of neighbours; mean + 5 sd at most."""
    for count, epochs in ((3, 3000), (5, 6000)):
        orders = ShuffledRows(count, 0, "t").at(np.arange(count * epochs)).reshape(epochs, count)
        found = Counter(map(tuple, orders.tolist()))
        cells = [found[order] for order in itertools.permutations(range(count))]
        assert _chi_square(np.array(cells)) < 5.0
    orders = ShuffledRows(40, 0, "u").at(np.arange(40 * 4000)).reshape(4000, 40)
    for place in (0, 1, 19, 39):
        assert _chi_square(np.bincount(orders[:, place], minlength=40)) < 5.0
    steps = ((orders[:, 1:] - orders[:, :-1]) % 40).reshape(-1)
    assert _chi_square(np.bincount(steps, minlength=40)[1:]) < 5.0


def _chi_square(cells: np.ndarray) -> float:
    """Standard deviations above the mean of the chi-square distribution."""
    expected, freedom = cells.sum() / len(cells), len(cells) - 1
    return float((((cells - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def test_epochs_and_seeds_differ_and_nothing_long_is_kept() -> None:
    count = 3_000_000
    order = TrainingOrder(count, seed=4)
    tracemalloc.start()
    first, second = order.rows(0, 5000), order.rows(count, count + 5000)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000  # a permutation would take 24 MB
    tracemalloc.stop()
    assert len(np.unique(first)) == 5000
    assert np.mean(first == second) < 0.01
    assert np.mean(first == TrainingOrder(count, seed=5).rows(0, 5000)) < 0.01
    assert 0.45 < first.mean() / count < 0.55


@settings(max_examples=40, deadline=None)
@given(
    fakes=st.integers(1, 400),
    real=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.05, 0.1, 1 / 3, 0.5, 0.9]),
    start=st.integers(0, 3000),
    length=st.integers(0, 200),
)
def test_any_part_of_an_order_equals_the_whole(fakes: int, real: int, share: float, start: int, length: int) -> None:
    whole = TrainingOrder(fakes, real, share, 1).rows(0, start + length)
    assert np.array_equal(TrainingOrder(fakes, real, share, 1).rows(start, start + length), whole[start:])


@pytest.mark.parametrize(("share", "slots"), [(0.0, 0), (0.1, 100), (0.25, 300), (0.5, 900), (0.75, 2700)])
def test_real_images_have_the_stated_share(share: float, slots: int) -> None:
    order = TrainingOrder(900, 70, share, 3)
    assert (order.real_slots, order.epoch_length) == (slots, 900 + slots)
    for epoch in range(3):
        rows = order.rows(epoch * order.epoch_length, (epoch + 1) * order.epoch_length)
        assert np.array_equal(np.sort(rows[rows < 900]), np.arange(900))
        assert (rows >= 900).sum() == slots
        halves = np.array_split(rows >= 900, 2)
        assert abs(halves[0].mean() - halves[1].mean()) < 0.12
    shown = np.bincount(order.rows(0, 3 * order.epoch_length), minlength=970)[900:]
    assert shown.sum() == 3 * slots
    assert shown.max() - shown.min() <= 1


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingOrder(500, 20, 0.2, 3).rows(0, 5000)
    monkeypatch.setattr(shuffle, "_BLOCK", 64)
    order = TrainingOrder(500, 20, 0.2, 3)
    assert np.array_equal(np.concatenate([order.rows(at, at + 50) for at in range(0, 5000, 50)]), whole)


def test_refusals() -> None:
    with pytest.raises(UserError, match="no fakes"):
        TrainingOrder(0)
    for share, real in ((1.0, 5), (-0.1, 5), (0.2, 0)):
        with pytest.raises(UserError, match="real_share"):
            TrainingOrder(10, real, share)
    with pytest.raises(IndexError):
        ShuffledRows(5, 0, "t").at(np.array([-1]))

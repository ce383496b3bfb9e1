"""Shuffled orders that need no list of rows: each place's row is computed, whoever asks and in whatever order.

An epoch's permutation is a Feistel network over the smallest power of two that holds the rows; a number that falls
outside is encrypted again until it falls inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002).  It is a pure function of (seed, epoch), so processes and ranks agree without talking, and training can
go on from any position of any epoch.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from runtime.errors import UserError
from runtime.seeds import numpy_generator

ROUNDS = 8
_MIX, _STIR = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)  # odd, so that multiplying loses nothing
_FEWEST_BITS = 6  # of the network; with fewer, some orders of a handful of rows are seen to come more often than others
_BLOCK = 16_384  # places worked out at a time: a batch alone would cost more in calls than in arithmetic
_LARGEST = 1 << 62


class ShuffledRows:
    """Epochs of `count` shuffled rows, joined end to end: every row comes once an epoch.  Takes a few bytes."""

    def __init__(self, count: int, seed: int, purpose: str) -> None:
        if not 1 <= count <= _LARGEST:
            raise ValueError(f"cannot shuffle {count} rows")
        self.count = count
        bits = max(_FEWEST_BITS, (count - 1).bit_length())
        self._low, self._high = bits // 2, bits - bits // 2
        self._keys = numpy_generator(seed, purpose).integers(0, 1 << 32, size=ROUNDS, dtype=np.uint32)

    def at(self, places: np.ndarray) -> np.ndarray:
        """int64 rows at these places (0 or more) of the endless order."""
        places = np.asarray(places, dtype=np.int64)
        if places.size and places.min() < 0:
            raise IndexError(f"place {places.min()} of an order that begins at 0")
        epochs = places // self.count
        return self._permute(places - epochs * self.count, epochs.astype(np.uint32))

    def _permute(self, numbers: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        rows = self._encrypt(numbers, epochs)
        outside = np.flatnonzero(rows >= self.count)
        while len(outside):
            again = self._encrypt(rows[outside], epochs[outside])
            rows[outside] = again
            outside = outside[again >= self.count]
        return rows

    def _encrypt(self, numbers: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """For each epoch a permutation of all numbers of `low` + `high` bits."""
        low = (numbers & ((1 << self._low) - 1)).astype(np.uint32)
        high = (numbers >> self._low).astype(np.uint32)
        if len(epochs) and (epochs == epochs[0]).all():
            epochs = epochs[:1]
        for number, base in enumerate(self._keys):
            key = _scramble(epochs, base)
            if number % 2:
                low ^= _scramble(high, key) >> np.uint32(32 - self._low)
            else:
                high ^= _scramble(low, key) >> np.uint32(32 - self._high)
        return (high.astype(np.int64) << self._low) | low


def _scramble(half: np.ndarray, key: np.ndarray | np.uint32) -> np.ndarray:
    """uint32: a hash of (half, key) whose high bits depend on every bit of both."""
    mixed = half ^ key
    mixed *= _MIX
    mixed ^= mixed >> np.uint32(15)
    mixed *= _STIR
    mixed ^= mixed >> np.uint32(13)
    mixed *= _MIX
    return mixed


class TrainingOrder:
    """The rows of each place of a training: fakes alone, or mixed with real images at a stated share.

    Rows count as in `Concatenation([fakes, real])`: below `fakes` a fake, from there on a real image.  An epoch shows
    every fake once and so many real images that they are `real_share` of it, to the nearest image; the real images go
    through epochs of their own, so that each is shown as often as any other (one time more or less).
    """

    def __init__(self, fakes: int, real: int = 0, real_share: float = 0.0, seed: int = 0) -> None:
        if fakes < 1:
            raise UserError("there are no fakes to train on; select or sample some.")
        if not 0.0 <= real_share < 1.0 or (real_share > 0.0 and real < 1):
            raise UserError(
                f"real_share is {real_share:g} with {real} real images; give a share in [0, 1), and images for it."
            )
        share = Fraction(repr(float(real_share)))
        self.fakes, self.real = fakes, real
        self.real_slots = round(fakes * share / (1 - share))
        self.epoch_length = fakes + self.real_slots
        self._slots = ShuffledRows(self.epoch_length, seed, "training order")
        self._real = ShuffledRows(real, seed, "training order, real") if real else None
        self._blocks: dict[int, np.ndarray] = {}  # the last two, for readers that look ahead

    def rows(self, start: int, stop: int) -> np.ndarray:
        """int64 rows of the places start ... stop - 1, counted from the beginning of epoch 0; not to be written to."""
        first, last = start // _BLOCK, max(stop - 1, start) // _BLOCK
        if first == last:
            return self._rows_of(first)[start - first * _BLOCK : stop - first * _BLOCK]
        whole = np.concatenate([self._rows_of(block) for block in range(first, last + 1)])
        return whole[start - first * _BLOCK : stop - first * _BLOCK]

    def _rows_of(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            places = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
            rows = self._slots.at(places)
            chosen = np.flatnonzero(rows >= self.fakes)
            if self._real is not None and len(chosen):
                earlier = places[chosen] // self.epoch_length * self.real_slots  # real images of the epochs before
                rows[chosen] = self.fakes + self._real.at(earlier + rows[chosen] - self.fakes)
            self._blocks = {known: kept for known, kept in self._blocks.items() if abs(known - block) == 1}
            self._blocks[block] = rows
        return self._blocks[block]

"""Rows of images (or latents) by their number in the dataset, from maps over its shards; checked when first read.

A shard is looked at and mapped when one of its rows is first asked for.  What a process knows of a row is one number,
so that a batch of known rows costs two look-ups and the copy: the row's position in the maps, or a negative number
while there is something to do.  Several threads may read at once, and processes may fork in between.
"""

from __future__ import annotations

import os
import threading
import zlib

import numpy as np

from image_data.fake.row_maps import RowMaps
from image_data.fake.shard_files import ShardFiles
from runtime.errors import UserError

_UNSEEN = -1  # the row's shard was not yet looked at
_UNCHECKED = -2  # less the row's position: mapped, and not yet compared with its checksum


class RowReader:
    """Rows of the array `name` of every shard, `row_bytes` each.

    check_every: compare every k-th image that this process has not compared yet with its CRC-32; None for arrays
    without checksums of rows, which are checked whole, or for no check at all.
    """

    _looking = threading.Lock()  # held while what is known of rows changes

    def __init__(self, shards: ShardFiles, name: str, row_bytes: int, check_every: int | None) -> None:
        self._shards, self._name, self._every = shards, name, check_every
        self._maps = RowMaps([entry.rows for entry in shards.manifest.shards], row_bytes)
        self._known = np.full(int(shards.starts[-1]), _UNSEEN, dtype=np.int64)
        self._left = len(self._known)  # rows with something left to do; 0 only after the last is done
        self._first = np.zeros(len(shards), dtype=np.int64)  # position of each shard's first row
        self._sums: dict[int, memoryview] = {}  # row_crc32 of the shards that were looked at
        self._offered = 0  # unchecked rows that were read so far

    def take(self, rows: np.ndarray) -> np.ndarray:
        """uint8 len(rows) x row_bytes, a copy; rows: int64.  IndexError for a row that is none of the dataset's."""
        left = self._left  # before `known`, which another thread may be completing
        known = self._look_up(rows)
        if left and len(known) and np.minimum.reduce(known) < 0:
            return self._take_new(rows, known)
        return self._maps.take(known)

    def expect(self, rows: np.ndarray) -> None:
        """Ask the operating system to begin reading these rows from the disk; does not wait."""
        known = self._seen(rows, self._look_up(rows))
        self._maps.expect(np.where(known < 0, _UNCHECKED - known, known))

    def _look_up(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and np.minimum.reduce(rows) < 0:
            raise IndexError(f"row {rows.min()} of a fake dataset of {len(self._known)}")
        known: np.ndarray = self._known[rows]  # an IndexError where a row is too large
        return known

    def _take_new(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Some rows were not yet mapped or checked."""
        known = self._seen(rows, known)
        new = np.flatnonzero(known < 0)
        positions = known.copy()
        positions[new] = _UNCHECKED - known[new]
        taken = self._maps.take(positions)
        if self._every is not None:
            chosen = new[-self._offered % self._every :: self._every]
            self._offered += len(new)
            self._check(rows[chosen], positions[chosen], taken, chosen)
        return taken

    def _seen(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        """What is known of the rows after the shards of all of them were looked at."""
        unseen = known == _UNSEEN
        if not unseen.any():
            return known
        for shard in np.unique(self._shards.owners(rows[unseen])).tolist():
            with self._looking:
                self._map(shard)
        looked_up: np.ndarray = self._known[rows]
        return looked_up

    def _map(self, shard: int) -> None:
        span = slice(int(self._shards.starts[shard]), int(self._shards.starts[shard + 1]))
        unseen = int(np.count_nonzero(self._known[span] == _UNSEEN))
        if not unseen:
            return  # another thread was faster
        file = self._shards.file(shard)
        used = self._shards.used_rows(shard)
        if self._every is not None:
            self._sums[shard] = file.array("row_crc32").data
        elif self._shards.check:
            file.array(self._name)  # is checked whole
        self._first[shard] = self._maps.fill(shard, file.path, file.places[self._name])
        positions = self._first[shard] + used * self._maps.row_bytes
        self._known[span] = positions if self._every is None else _UNCHECKED - positions
        if self._every is None:
            self._left -= unseen

    def _check(self, rows: np.ndarray, positions: np.ndarray, taken: np.ndarray, chosen: np.ndarray) -> None:
        """Compare rows with their CRC-32; `taken[chosen]` are their bytes."""
        owners = self._shards.owners(rows)
        local = (positions - self._first[owners]) // self._maps.row_bytes
        for place, shard, row in zip(chosen.tolist(), owners.tolist(), local.tolist(), strict=True):
            if zlib.crc32(taken[place]) != self._sums[shard][row]:
                raise UserError(
                    f"{self._shards.path(shard)}: row {row} does not match its checksum; the file is damaged, run "
                    f"`verify` and `repair`."
                )
        with self._looking:
            once, where = np.unique(rows, return_index=True)
            done = int(np.count_nonzero(self._known[once] < 0))
            self._known[once] = positions[where]
            self._left -= done


def _new_lock() -> None:
    """A thread of the parent may have held the lock."""
    RowReader._looking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

"""Maps over the images of many files, read row by row at random.

On Linux the files are mapped one behind the other into one range of addresses, so that random rows of any number of
files are gathered by one indexing of one array, at the speed of an array in memory.  Elsewhere each file has its own
map and the rows are copied one by one.  Both name a row by its position, the place of its first byte.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_data.fake.sealed import Place, map_place, reading
from runtime.errors import UserError

_FIXED = 0x10  # MAP_FIXED of Linux, which Python's mmap module does not name
_WILL_NEED = 3
_FAILED = ctypes.c_void_p(-1).value


class JoinedMaps:
    """One range of addresses with a slot for each file.  `rows`: rows of each file; `row_bytes`: bytes of one row.

    Only positions that `fill` gave (and multiples of `row_bytes` after them, within the file) may be read.
    """

    def __init__(self, rows: Sequence[int], row_bytes: int) -> None:
        self.row_bytes = row_bytes
        pages = [-(-count * row_bytes // mmap.PAGESIZE) + 1 for count in rows]  # the first row may begin within a page
        self._slots = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(pages, dtype=np.int64)]) * mmap.PAGESIZE
        length = max(int(self._slots[-1]), mmap.PAGESIZE)
        try:  # addresses, and no memory
            self._base = _map(None, length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        except OSError as error:
            raise UserError(
                f"the fakes cannot be mapped into memory ({error.strerror}); raise the limit of address space "
                f"(`ulimit -v`)."
            ) from error
        weakref.finalize(self, _libc().munmap, self._base, length).atexit = False  # a thread may read until the end
        whole = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(self._base))
        shape = (max(0, length - row_bytes + 1), row_bytes)
        self._rows = np.lib.stride_tricks.as_strided(whole, shape, (1, 1), writeable=False)

    def fill(self, number: int, path: Path, place: Place) -> int:
        """Map the rows of file `number`; returns the position of its first row."""
        if 0 in place.shape:
            return int(self._slots[number])
        lead = place.offset % mmap.PAGESIZE
        slot, end = int(self._slots[number]), int(self._slots[number + 1])
        flags = mmap.MAP_SHARED | _FIXED
        with reading(path):
            handle = os.open(path, os.O_RDONLY)
            try:  # the whole slot, also past the end of the file: no gap between slots, so that a file costs one map
                _map(self._base + slot, end - slot, mmap.PROT_READ, flags, handle, place.offset - lead)
            finally:
                os.close(handle)
        return slot + lead

    def take(self, positions: np.ndarray) -> np.ndarray:
        """uint8 len(positions) x row_bytes, a copy."""
        taken: np.ndarray = self._rows[positions]
        return taken

    def expect(self, positions: np.ndarray) -> None:
        """Ask the operating system to begin reading these rows from the disk; does not wait."""
        advise = _libc().madvise
        for position in positions.tolist():
            start = position // mmap.PAGESIZE * mmap.PAGESIZE
            advise(self._base + start, position + self.row_bytes - start, _WILL_NEED)


class SeparateMaps:
    """The same with one map a file, where `JoinedMaps` does not work."""

    def __init__(self, rows: Sequence[int], row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self._starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(rows, dtype=np.int64)]) * row_bytes
        self._bytes: dict[int, memoryview] = {}

    def fill(self, number: int, path: Path, place: Place) -> int:
        """Map the rows of file `number`; returns the position of its first row."""
        self._bytes[number] = map_place(path, place).reshape(-1).data
        return int(self._starts[number])

    def take(self, positions: np.ndarray) -> np.ndarray:
        """uint8 len(positions) x row_bytes, a copy."""
        files = np.searchsorted(self._starts, positions, side="right") - 1
        starts = (positions - self._starts[files]).tolist()
        size = self.row_bytes
        pieces = [self._bytes[file][start : start + size] for file, start in zip(files.tolist(), starts, strict=True)]
        return np.frombuffer(bytearray().join(pieces), dtype=np.uint8).reshape(len(positions), size)

    def expect(self, positions: np.ndarray) -> None:
        """Does nothing."""


RowMaps = JoinedMaps if sys.platform == "linux" else SeparateMaps


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _map(address: int | None, length: int, protection: int, flags: int, handle: int, offset: int) -> int:
    address_of_map = _libc().mmap(address, length, protection, flags, handle, offset)
    if address_of_map is None or address_of_map == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(address_of_map)

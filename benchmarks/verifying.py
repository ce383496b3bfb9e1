"""`verify` against what it cannot beat: the disk read once from end to end, and the hashes alone.

`read`: every file of the dataset from its first byte to its last, by one thread; `hashes`: SHA-256 and CRC-32 of bytes
in memory, by one thread.  Verifying hashes each byte with both, in as many threads as there are cores, so its bound is
the slower of the disk and the threads' hashes.  `cold`: the system was asked to forget the files before; whether it
really read the disk then, the numbers of `read` tell.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import drop_from_cache
from image_data.fake import open_manifest, verify_fakes
from image_data.fake.verify import MOST_THREADS
from runtime.devices import usable_cores
from runtime.errors import UserError
from runtime.progress import say

_PIECE_BYTES = 8 << 20
_HASHED_BYTES = 64 << 20
COUNT, SMALL = 100_000, 3_000  # images of 3 x 32 x 32


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """MB/s of each side and the ratios, medians over rounds, in turns.  UserError where the dataset is damaged."""
    open_manifest(folder)
    files = sorted(path for path in folder.rglob("*.h5"))
    size = sum(path.stat().st_size for path in files)
    threads = min(MOST_THREADS, usable_cores())
    sides: dict[str, Callable[[], float]] = {
        "verify, cold": lambda: _cold(folder, lambda: _verify(folder, size)),
        "read, cold": lambda: _cold(folder, lambda: _read(files, size)),
        "verify": lambda: _verify(folder, size),
        "read": lambda: _read(files, size),
        "hashes": lambda: _hash(size),
    }
    speeds: dict[str, list[float]] = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for side, measure in sides.items():
            speeds.setdefault(side, []).append(measure())
    speed = {side: float(np.median(values)) for side, values in speeds.items()}
    bounds = {end: min(speed["read" + end], threads * speed["hashes"]) for end in ("", ", cold")}
    return {
        "dataset, MB": round(size / 1e6, 1),
        "files": len(files),
        "threads": threads,
        **{f"{side}, MB/s": value for side, value in speed.items()},
        **{f"verify{end} / bound{end}": speed["verify" + end] / bound for end, bound in bounds.items()},
        "verify, cold / read, cold": speed["verify, cold"] / speed["read, cold"],
    }


def _cold(folder: Path, measure: Callable[[], float]) -> float:
    drop_from_cache(folder)
    return measure()


def _verify(folder: Path, size: int) -> float:
    start = time.perf_counter()
    problems = verify_fakes(folder)
    seconds = time.perf_counter() - start
    if problems:
        raise UserError(f"{problems[0]} Repair the dataset before its speed is measured.")
    return size / seconds / 1e6


def _read(files: list[Path], size: int) -> float:
    buffer = bytearray(_PIECE_BYTES)
    start = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass
    return size / (time.perf_counter() - start) / 1e6


def _hash(size: int) -> float:
    """Both hashes, one after the other, over pieces of 8 MiB."""
    data = np.random.default_rng(0).bytes(_PIECE_BYTES)
    total, hashed, check = hashlib.sha256(), 0, 0
    start = time.perf_counter()
    while hashed < min(size, _HASHED_BYTES):
        total.update(data)
        check = zlib.crc32(data, check)
        hashed += len(data)
    return hashed / (time.perf_counter() - start) / 1e6

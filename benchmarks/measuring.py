"""What the measurements share: clocks, memory, the page cache, and a table for people."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def clocks() -> np.ndarray:
    """Wall and processor seconds; on a busy machine the second is the steadier measure."""
    return np.array([time.perf_counter(), time.process_time()])


def memory_of_process(name: str) -> int:
    """Bytes, by the name in /proc/self/status: VmData (its own), VmSize (all addresses), VmPeak (the most so far),
    VmHWM (the most in memory so far).
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files' pages (those that no process has mapped)."""
    for path in folder.rglob("*.h5"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def table_text(rows: Mapping[str, Any]) -> str:
    """A row a line, the names right-aligned."""
    width = max(map(len, rows))
    return "\n".join(
        f"{name:>{width}}  {value:.4g}" if isinstance(value, float) else f"{name:>{width}}  {value}"
        for name, value in rows.items()
    )

"""How much disk and memory there is to use."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.errors import UserError

_LARGEST_SHARE_OF_MEMORY = 0.8


def free_disk_bytes(path: Path) -> int:
    """What this user may still write to the file system on which `path` lies or will lie."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping: of the machine, or of the container where that is less.

    None where the system does not say.
    """
    limits = [value for value in (_of_the_machine(), _of_the_container()) if value is not None]
    return min(limits) if limits else None


def check_memory(needed_bytes: int, what: str) -> None:
    """UserError before `what` is read into memory that is not there; nothing where the system does not say."""
    free = free_memory_bytes()
    if free is not None and needed_bytes > _LARGEST_SHARE_OF_MEMORY * free:
        raise UserError(
            f"{what} need {needed_bytes / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; "
            "ask for a smaller --resolution, use fewer images, or close other programs."
        )


def _of_the_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _of_the_container() -> int | None:
    """By control groups, version 2; cached files do not count as used."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(used["anon"]))
    except (OSError, ValueError, KeyError):
        return None

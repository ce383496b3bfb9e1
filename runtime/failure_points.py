"""Named places at which a test can make the program die.

`failure_point("store.before_rename")` does nothing unless RETORT_FAILURE_POINT names it, as `NAME[:N][=ACTION]`:
at the N-th passage (default 1) the ACTION happens: `kill` (SIGKILL to the process, the default), `enospc` or `eio`
(an OSError).  Every name used in the code is declared in `FAILURE_POINTS`, and a test exercises each.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

FAILURE_POINTS = (
    "atomic.before_rename",
    "atomic.after_rename",
    "checkpoint.before_commit",
    "checkpoint.after_commit",
    "sampler.unit_computed",
    "store.shard_written",
    "store.shard_synced",
    "store.shard_committed",
    "store.before_manifest",
)

_passages: Counter[str] = Counter()


def failure_point(name: str) -> None:
    """Die here if the environment asks for it."""
    armed = os.environ.get("RETORT_FAILURE_POINT")
    if armed is None:
        return
    if name not in FAILURE_POINTS:
        raise KeyError(f"undeclared failure point {name}")
    target, _, action = armed.partition("=")
    target, _, count = target.partition(":")
    if name != target:
        return
    _passages[name] += 1
    if _passages[name] != int(count or 1):
        return
    if action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device (failure point)")
    if action == "eio":
        raise OSError(errno.EIO, "Input/output error (failure point)")
    os.kill(os.getpid(), signal.SIGKILL)

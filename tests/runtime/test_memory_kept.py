"""What a pass frees serves the next one: no new pages from the system, and the user's own settings go before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PASSES = """
import resource, sys
import torch
from runtime.devices import keep_freed_memory

kept = keep_freed_memory()
taken = []
for number in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20, dtype=torch.uint8).add_(1)
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, taken[-1])
"""


def passes(**environment: str) -> tuple[str, int]:
    """Whether memory is kept, and how many pages the last passes asked for, in a fresh process."""
    pytest.importorskip("resource")
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run([sys.executable, "-c", PASSES], env=mine | environment, capture_output=True, check=True)
    kept, taken = found.stdout.decode().split()
    return kept, int(taken)


def test_freed_memory_serves_the_next_pass() -> None:
    kept, taken = passes()
    if kept == "False":
        pytest.skip("this system's C library is not glibc")
    assert taken < 16 << 20 >> 12  # four passes took fewer new pages than one array has


def test_the_users_own_setting_goes_before() -> None:
    assert passes(MALLOC_ARENA_MAX="4")[0] == "False"

"""A flipped bit in any kind of file is seen or harmless: no traceback, and no other value without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Workspace
from tests.support.faults_flips import Kind, flip_bits, kinds_of, table

pytestmark = pytest.mark.xdist_group("workspace")
FLIPS = 3


def test_flipped_bits_are_seen_or_harmless(workspace: Workspace, tmp_path: Path) -> None:
    copy = tmp_path / "w"
    shutil.copytree(workspace.folder, copy, symlinks=True)
    flips = {kind: 2 if kind.name.startswith("fakes") else FLIPS for kind in kinds_of(copy, tmp_path / "extra")}
    outcomes = {kind.name: flip_bits(kind, count, seed=1) for kind, count in flips.items()}
    assert {"teacher: card.json", "filter: weights", "fakes: a shard", "checkpoint: state.json"} <= set(outcomes)
    for name, found in outcomes.items():
        assert (found.silent, found.tracebacks) == (0, 0), (name, found.texts)
        if name.endswith(("weights", "tensors.safetensors", "selection", "a shard", "scores", "manifest.json")):
            assert found.detected == found.flips > 0, name
    assert table(outcomes).count("\n") == len(outcomes) + 1


def test_what_is_silent_or_breaks_is_counted_as_such(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_bytes(b"\x00")
    assert flip_bits(Kind("a number", path, path.read_bytes), 5, 0).silent == 5

    def broken() -> int:
        return 1 // (path.read_bytes() == b"\x00")

    assert flip_bits(Kind("a number", path, broken), 5, 0).tracebacks == 5
    assert path.read_bytes() == b"\x00"

"""Atomic writing, checkpoints and failure points, with real kills of real processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_data.fake.sealed import commit_sealed, seal
from runtime import failure_points
from runtime.atomic import commit_file, commit_folder, remove_leftovers, write_bytes, write_json, write_text
from runtime.claims import try_claim
from runtime.failure_points import FAILURE_POINTS, failure_point
from runtime.safe_files import read_sealed_json, write_sealed_json
from training.checkpoints import CheckpointFolder

ROOT = Path(__file__).parents[2]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "card.json"
    write_json(path, {"a": [1, "ü"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "ü"]}
    write_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert path.read_bytes() == "zwei ü\n".encode()
    assert os.listdir(path.parent) == ["card.json"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a" / "card.json", {})
        commit_folder(tmp_path / "b" / "step", lambda folder: (folder / "inside").touch())
        commit_sealed(tmp_path / "c" / "shard.h5", seal({"x": np.zeros(3)}, {}))
        claim = try_claim(tmp_path / "d")
        CheckpointFolder(tmp_path / "e").save(1, {"x": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert claim is not None
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_failed_rename_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    arm(monkeypatch, "atomic.before_rename=enospc")
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "out" / "data"

    def fill(folder: Path) -> None:
        assert not final.exists()
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text("a")

    commit_folder(final, fill)
    assert (final / "deep" / "a").read_text() == "a"

    def fail(folder: Path) -> None:
        (folder / "a").write_text("a")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        commit_folder(tmp_path / "out" / "other", fail)
    assert os.listdir(tmp_path / "out") == ["data"]
    with pytest.raises(OSError):
        commit_folder(final, fill_again)
    assert (final / "deep" / "a").read_text() == "a"


def fill_again(folder: Path) -> None:
    (folder / "b").write_text("b")


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".a.1.tmp").write_text("")
    (tmp_path / ".b.2.tmp" / "deep").mkdir(parents=True)
    for kept in ("a", "b.tmp", ".hidden"):
        (tmp_path / kept).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a", "b.tmp"]


def test_commit_file_moves_within_a_folder(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"x")
    commit_file(tmp_path / "t", tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]


def arm(monkeypatch: pytest.MonkeyPatch, armed: str) -> None:
    monkeypatch.setenv("RETORT_FAILURE_POINT", armed)
    monkeypatch.setattr(failure_points, "_passages", type(failure_points._passages)())


def test_failure_points_count_their_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    failure_point("atomic.before_rename")  # nothing is armed
    arm(monkeypatch, "atomic.before_rename:3=eio")
    failure_point("atomic.after_rename")
    failure_point("atomic.before_rename")
    failure_point("atomic.before_rename")
    with pytest.raises(OSError, match="failure point") as caught:
        failure_point("atomic.before_rename")
    assert caught.value.errno == errno.EIO
    failure_point("atomic.before_rename")  # once only
    with pytest.raises(KeyError, match="undeclared"):
        failure_point("no.such.place")


def test_every_failure_point_of_the_code_is_declared_and_every_declared_one_is_used() -> None:
    used: set[str] = set()
    rooms = [path for path in ROOT.iterdir() if (path / "__init__.py").exists() and path.name != "tests"]
    for path in (path for room in rooms for path in room.rglob("*.py")):
        if path.name != "failure_points.py":
            used |= set(re.findall(r'failure_point\(\s*"([^"]+)"', path.read_text(encoding="utf-8")))
    assert used == set(FAILURE_POINTS)


@pytest.mark.parametrize("name", FAILURE_POINTS)
def test_each_failure_point_kills(name: str) -> None:
    code = f"from runtime.failure_points import failure_point; failure_point({name!r}); print('alive')"
    done = run_python(code, name)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def run_python(code: str, armed: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RETORT_FAILURE_POINT": armed}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def save_two(folder: Path, armed: str | None) -> None:
    """Run in a process of its own."""
    failure_points._passages.clear()
    os.environ.pop("RETORT_FAILURE_POINT", None)
    if armed is not None:
        os.environ["RETORT_FAILURE_POINT"] = armed
    for step in (1, 2):
        CheckpointFolder(folder).save(step, {"weight": torch.full((3,), float(step))}, {"step": step})


def exit_code_of_save_two(folder: Path, armed: str | None) -> int | None:
    # A forked child dies as a spawned one does, and need not import torch again.
    child = multiprocessing.get_context("fork").Process(target=save_two, args=(folder, armed))
    child.start()
    child.join(60)
    return child.exitcode


@pytest.mark.parametrize(
    ("armed", "steps"),
    [
        ("atomic.before_rename", None),  # the first state.json
        ("checkpoint.before_commit", None),
        ("checkpoint.after_commit", 1),
        ("atomic.before_rename:2", 1),
        ("atomic.after_rename:2", 1),
        ("checkpoint.before_commit:2", 1),
        ("checkpoint.after_commit:2", 2),
    ],
)
def test_a_kill_during_a_save_leaves_the_last_whole_one(armed: str, steps: int | None, tmp_path: Path) -> None:
    assert exit_code_of_save_two(tmp_path, armed) == -signal.SIGKILL
    loaded = CheckpointFolder(tmp_path).load_latest()
    if steps is None:
        assert loaded is None
    else:
        assert loaded is not None
        assert loaded.step == loaded.scalars["step"] == steps
        assert loaded.tensors["weight"].tolist() == [steps] * 3
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []
    assert exit_code_of_save_two(tmp_path, None) == 0
    assert visible(tmp_path) == ["step_000000001", "step_000000002"]


def save_three(folder: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(folder)
    for step in (10, 20, 30):
        checkpoints.save(step, {"weight": torch.full((50,), float(step))}, {"loss": step / 10})
    return checkpoints


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = save_three(tmp_path / "checkpoints")
    assert visible(tmp_path / "checkpoints") == ["step_000000020", "step_000000030"]
    newest = checkpoints.load_latest()
    assert newest is not None
    assert (newest.step, newest.scalars) == (30, {"loss": 3.0})
    checkpoints.save(30, {"weight": torch.zeros(2)}, {})  # the same step again replaces it
    again = checkpoints.load_latest()
    assert again is not None
    assert again.tensors["weight"].tolist() == [0, 0]
    checkpoints.remove()
    assert checkpoints.load_latest() is None
    assert not (tmp_path / "checkpoints").exists()


DAMAGE = {
    "truncated tensors": lambda path: truncate(path / "tensors.safetensors", 0.5),
    "empty tensors": lambda path: truncate(path / "tensors.safetensors", 0),
    "no tensors": lambda path: (path / "tensors.safetensors").unlink(),
    "flipped bit": lambda path: flip(path / "tensors.safetensors"),
    "truncated state": lambda path: truncate(path / "state.json", 0.5),
    "no state": lambda path: (path / "state.json").unlink(),
    "state of another save": lambda path: shutil.copy(
        path.parent / "step_000000020" / "state.json", path / "state.json"
    ),
    "state without fields": lambda path: (path / "state.json").write_text("{}"),
    "state without a seal": lambda path: rewrite(path, lambda state: state.pop("seal")),
    "another step": lambda path: rewrite(path, lambda state: state.update(step=28)),
    "another step under a new seal": lambda path: write_sealed_json(
        path / "state.json", read_sealed_json(path / "state.json") | {"step": 28}
    ),
    "another key": lambda path: rewrite(path, lambda state: state.update(scalars={"losx": 3.0})),
    "another scalar": lambda path: rewrite(path, lambda state: state.update(scalars={"loss": 3.1})),
    "state is a list": lambda path: (path / "state.json").write_text("[]"),
    "state is deep": lambda path: (path / "state.json").write_text("[" * 100_000),
    "state is a pipe": lambda path: ((path / "state.json").unlink(), os.mkfifo(path / "state.json")),
    "tensors are a pipe": lambda path: (
        (path / "tensors.safetensors").unlink(),
        os.mkfifo(path / "tensors.safetensors"),
    ),
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
    "renamed folder": lambda path: path.rename(path.with_name("step_000000031")),
    "another header": lambda path: replace(path / "tensors.safetensors", b"weight", b"weighs"),
}


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state, indent=2))


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = save_three(tmp_path)
    DAMAGE[damage](tmp_path / "step_000000030")
    loaded = checkpoints.load_latest()
    assert loaded is not None
    assert (loaded.step, loaded.tensors["weight"][0].item()) == (20, 20.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "is damaged" in lines[0]
    assert lines[0].endswith("continuing from the one before, at step 20")
    checkpoints.save(25, {"weight": torch.zeros(2)}, {})  # and the damaged one goes when there is a newer whole one
    assert visible(tmp_path) == ["step_000000020", "step_000000025"]


def test_every_changed_byte_of_a_checkpoint_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = save_three(tmp_path)
    for name in ("state.json", "tensors.safetensors"):
        path = tmp_path / "step_000000030" / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 1 if len(whole) < 200 else 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
            found = checkpoints.load_latest()
            assert found is not None
            if found.step == 30:  # white space between the entries of the JSON text
                assert name == "state.json"
                assert found.scalars == {"loss": 3.0}
                assert found.tensors["weight"].tolist() == [30.0] * 50
            else:
                assert (found.step, found.scalars) == (20, {"loss": 2.0})
        path.write_bytes(whole)
    capsys.readouterr()


def test_without_a_whole_checkpoint_it_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = save_three(tmp_path)
    for step in (20, 30):
        flip(tmp_path / f"step_0000000{step}" / "tensors.safetensors")
    assert checkpoints.load_latest() is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("none is whole: starting anew")

"""SIGKILL at random moments and at every failure point: nothing committed is lost, and the bytes come out the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from image_data.fake import open_fakes, verify_fakes
from runtime.errors import UserError
from runtime.failure_points import FAILURE_POINTS
from tests.support.store_runs import ForkServer, fork_server, passages, run, run_armed, same
from tests.support.tiny_sampling import CLASSES, file_bytes, save_tiny_teacher

ELSEWHERE = {"checkpoint.before_commit", "checkpoint.after_commit"}  # tests/runtime/test_atomic.py kills at these


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole").path


@pytest.fixture(scope="module")
def server() -> ForkServer:
    return fork_server()


@pytest.mark.parametrize("name", FAILURE_POINTS)
def test_killed_at_every_failure_point(
    name: str, teacher: Path, undisturbed: Path, tmp_path: Path, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first passage, one in the middle and the last one."""
    count = passages(name, teacher, tmp_path / "counted", monkeypatch)
    assert (count == 0) == (name in ELSEWHERE)
    for number in sorted({1, (count + 1) // 2, count} - {0}) if count else []:
        out = tmp_path / str(number)
        process = server.Process(target=run_armed, args=(teacher, out, f"{name}:{number}"))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        committed = file_bytes(out)
        if not (out / "manifest.json").exists():  # all but the rename of the manifest itself
            with pytest.raises(UserError):
                open_fakes(out)
        run(teacher, out)
        assert committed.items() <= file_bytes(out).items()
        assert same(out, undisturbed)
        assert verify_fakes(out) == []
        assert not list(out.rglob(".*.tmp"))


def kill_loop(
    server: ForkServer, teacher: Path, undisturbed: Path, place: Path, kills: int, workers: int, longest_s: float
) -> tuple[int, int]:
    """(kills survived, committed files lost or changed).  A folder is killed until it is finished, then a new one."""
    random = np.random.default_rng(kills)
    expected = file_bytes(undisturbed)
    survived = losses = folders = 0
    while survived < kills:
        out, committed = place / f"run-{folders}", dict[str, bytes]()
        folders += 1
        while survived < kills and not (out / "manifest.json").exists():
            process = server.Process(target=run_armed, args=(teacher, out, "", workers))
            process.start()
            time.sleep(float(random.uniform(0.0, longest_s)))
            process.kill()
            process.join(60)
            now = file_bytes(out)
            survived += process.exitcode == -signal.SIGKILL
            losses += sum(now.get(name) != data for name, data in committed.items())
            committed = {name: data for name, data in now.items() if workers == 1 or name in expected}
            losses += sum(expected[name] != data for name, data in committed.items())
        run(teacher, out)
        losses += not same(out, undisturbed)
        losses += len(verify_fakes(out))
    return survived, losses


def seconds_of_a_run(server: ForkServer, teacher: Path, place: Path, workers: int) -> float:
    """Of a second run: the first one waits for the fork server to load torch."""
    for number in range(2):
        start = time.monotonic()
        process = server.Process(target=run_armed, args=(teacher, place / f"timed-{number}", "", workers))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    return time.monotonic() - start


def test_a_short_kill_loop(teacher: Path, undisturbed: Path, tmp_path: Path, server: ForkServer) -> None:
    seconds = seconds_of_a_run(server, teacher, tmp_path, 1)
    survived, losses = kill_loop(server, teacher, undisturbed, tmp_path, 6, 1, seconds)
    print(f"kills survived {survived}, losses {losses}")
    assert (survived, losses) == (6, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "workers"), [(50, 1), (10, 2)])
def test_a_long_kill_loop(
    kills: int, workers: int, teacher: Path, undisturbed: Path, tmp_path: Path, server: ForkServer
) -> None:
    seconds = seconds_of_a_run(server, teacher, tmp_path, workers)
    survived, losses = kill_loop(server, teacher, undisturbed, tmp_path, kills, workers, seconds)
    print(f"workers {workers}: kills survived {survived}, losses {losses}")
    assert (survived, losses) == (kills, 0)


def test_a_second_writer_is_refused_and_the_first_goes_on(
    teacher: Path, undisturbed: Path, tmp_path: Path, server: ForkServer
) -> None:
    """The first is stopped in the middle of its work; sampling beside it is refused and changes nothing."""
    out = tmp_path / "o"
    process = server.Process(target=run_armed, args=(teacher, out, ""))
    process.start()
    deadline = time.monotonic() + 60
    while not list(out.glob("shards/*.h5")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert not (out / "manifest.json").exists(), "the first was done before it could be stopped"
        before = file_bytes(out)
        with pytest.raises(UserError, match=f"another process is writing into {out}"):
            run(teacher, out)
        assert file_bytes(out) == before
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0
    assert same(out, undisturbed)

"""The local engine in real processes; devices and threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from interfaces import Engine
from runtime.devices import pick_device, set_threads, threads_for, usable_cores, visible_gpus
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.registry import Registry

ROOT = Path(__file__).parents[2]


def square(number: int) -> tuple[int, int, int]:
    return number * number, os.getpid(), torch.get_num_threads()


def fail_at_three(number: int) -> int:
    if number == 3:
        raise UserError("photo 3 is broken.")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_one_worker_stays_in_this_process_and_is_lazy() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    results = LocalEngine(1).map(square, items())
    assert next(results)[:2] == (0, os.getpid())
    assert taken == [0]
    assert [result[0] for result in results] == [1, 4, 9, 16]
    assert isinstance(LocalEngine(), Engine)


def test_two_workers_share_the_items_and_the_cores() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = LocalEngine(2).map(square, items())
    found = [next(results)]
    assert len(taken) <= 8  # a bounded look-ahead keeps memory constant
    found += list(results)
    assert sorted(result[0] for result in found) == [number * number for number in range(40)]
    assert os.getpid() not in {result[1] for result in found}
    assert {result[2] for result in found} == {threads_for(2)}


@pytest.mark.slow
def test_an_error_in_a_worker_comes_out_as_it_is() -> None:
    with pytest.raises(UserError, match="photo 3 is broken"):
        list(LocalEngine(2).map(fail_at_three, range(6)))


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(UserError, match="worker process died"):
        list(LocalEngine(2).map(die_at_three, range(6)))


def gpu_of(number: int) -> tuple[int, str | None]:
    time.sleep(0.05)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_gpus_are_dealt_out_to_the_workers() -> None:
    found = dict(LocalEngine(3, gpus=["4", "7"]).map(gpu_of, range(30)))
    assert sorted(str(gpu) for gpu in found.values()) == ["4", "4", "7"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "4"


def test_one_gpu_is_left_to_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert visible_gpus("auto") == ["3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus("cuda") == ["0", "1"]
    assert visible_gpus("cuda:1") == visible_gpus("cpu") == []


def test_too_few_workers_are_refused() -> None:
    with pytest.raises(UserError, match="--workers 0"):
        LocalEngine(0)


PARENT = """
import os, sys, time
sys.path.insert(0, {root!r})
from runtime.engines import LocalEngine

def report(number):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(LocalEngine(2).map(report, range(2)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(root=str(ROOT)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(running(worker) for worker in workers)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(worker) for worker in workers)


def running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_threads_are_cores_divided_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("runtime.devices.usable_cores", lambda: 8)
    assert [threads_for(processes) for processes in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_for(processes) for processes in (1, 2, 3, 8)] == [3, 3, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads() == torch.get_num_threads() == 1
    assert usable_cores() >= 1


def test_devices_are_taken_at_their_word() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="--device 'toaster'"):
        pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda:1 asks for a GPU"):
            pick_device("cuda:1")


def test_registries_refuse_duplicates_and_name_the_known() -> None:
    registry: Registry[object] = Registry("student network")

    @registry.register("b")
    def build_b() -> None: ...

    registry.register("a")(build_b)
    assert (list(registry), len(registry), "a" in registry, "c" in registry) == (["a", "b"], 2, True, False)
    assert registry.get("b") is build_b
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("a")(build_b)
    with pytest.raises(UserError, match="student network 'c' is unknown; known are a, b"):
        registry.get("c")

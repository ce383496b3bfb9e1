"""The Ray engine on a real two-node cluster of this machine: same bytes, lost workers and nodes, errors, refusals."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_data.fake import open_fakes, verify_fakes
from interfaces import Engine
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.ray_engine import RayEngine, SharedFolder, read_marker
from teacher_sampler.sampling.sampler import sample
from tests.support.tiny_sampling import CLASSES, TinyParts, class_plan, file_bytes, save_tiny_teacher, tiny_settings

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray leaves sockets and processes of a stopped cluster to the garbage collector, which then warns in some test.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each; no dashboard, nothing reported to anyone."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()
    if before is None:
        del os.environ["RAY_USAGE_STATS_ENABLED"]


@pytest.fixture(scope="module")
def engine(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    """Joins the cluster; engines that are made after it use the same connection and the same worker processes."""
    made = RayEngine(tmp_path_factory.mktemp("work"), cluster.address)
    yield made
    made.close()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher") / "t", CLASSES)


def where(number: int) -> tuple[int, str, str, str]:
    import torch

    node = ray.get_runtime_context().get_node_id()
    time.sleep(0.2)
    return number * number, node, os.getcwd(), f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}"


def complain(number: int) -> int:
    if number == 2:
        raise UserError("photo 2 is broken.")
    if number == 5:
        raise OSError(errno.ENOSPC, "No space left on device")
    return number


class DieOnce:
    """Ends its own process at the first item, unless that has happened before."""

    def __init__(self, folder: Path, always: bool = False) -> None:
        self.folder, self.always = folder, always

    def __call__(self, number: int) -> int:
        tries = len(list(self.folder.glob("try-*")))
        if number == 0 and (self.always or not tries):
            (self.folder / f"try-{tries}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@pytest.mark.slow
def test_items_go_to_every_node_with_one_thread_each(engine: RayEngine) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    results = engine.map(where, items())
    found = [next(results)]
    assert len(taken) <= 2 * engine.workers == 4
    found += list(results)
    assert sorted(result[0] for result in found) == [number * number for number in range(12)]
    assert len({result[1] for result in found}) == 2
    assert {result[2] for result in found} == {os.getcwd()}
    assert {result[3] for result in found} == {"1 1"}
    assert isinstance(engine, Engine)


def test_errors_come_out_as_they_are_and_are_not_retried(engine: RayEngine) -> None:
    with pytest.raises(UserError) as caught:
        list(engine.map(complain, range(4)))
    assert type(caught.value) is UserError
    assert str(caught.value) == "photo 2 is broken."
    with pytest.raises(OSError, match="No space") as full:
        list(engine.map(complain, range(3, 8)))
    assert full.value.errno == errno.ENOSPC


@pytest.mark.slow
def test_a_lost_worker_is_replaced(engine: RayEngine, tmp_path: Path) -> None:
    assert sorted(engine.map(DieOnce(tmp_path), range(3))) == [0, 1, 2]
    assert len(list(tmp_path.glob("try-*"))) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_an_item_that_always_kills_its_worker_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.ray_engine.RETRIES", 1)
    other = RayEngine(tmp_path / "work")
    with pytest.raises(UserError, match="lost its worker 2 times"):
        list(other.map(DieOnce(tmp_path, always=True), range(3)))
    other.close()
    assert len(list(tmp_path.glob("try-*"))) == 2
    assert ray.is_initialized()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("engine")
def test_same_bytes_as_local(teacher: Path, tmp_path: Path) -> None:
    plain, far = tmp_path / "local", tmp_path / "ray"
    sample(TinyParts(teacher), class_plan(), tiny_settings(), plain, LocalEngine(1))
    other = RayEngine(far)
    sample(TinyParts(teacher), class_plan(), tiny_settings(), far, other)
    other.close()
    assert open_fakes(far).digest == open_fakes(plain).digest
    assert file_bytes(far) == file_bytes(plain)
    assert verify_fakes(far) == []
    assert not list(far.glob(".nodes-*"))


class SlowParts(TinyParts):
    """The same parts, and time enough to kill a node."""

    def __call__(self) -> Any:
        time.sleep(1.0)
        return super().__call__()


@pytest.mark.slow
def test_a_node_killed_during_the_run_changes_nothing(cluster: Any, teacher: Path, tmp_path: Path) -> None:
    plain, far = tmp_path / "local", tmp_path / "ray"
    plan, settings = class_plan(400), tiny_settings()
    sample(TinyParts(teacher), plan, settings, plain, LocalEngine(1))
    extra = cluster.add_node(num_cpus=2)
    engine = RayEngine(far, cluster.address)
    assert engine.workers == 4
    killed_at: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(list(far.glob("shards/*.h5"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.remove_node(extra, allow_graceful=False)
        killed_at.append(len(list(far.glob("shards/*.h5"))))

    thread = threading.Thread(target=kill)
    thread.start()
    sample(SlowParts(teacher), plan, settings, far, engine)
    thread.join()
    engine.close()
    shards = len(open_fakes(far).manifest.shards)
    assert 3 <= killed_at[0] < shards, "the node died after the work was done"
    assert open_fakes(far).digest == open_fakes(plain).digest
    assert file_bytes(far) == file_bytes(plain)


class BlindNode:
    """What `read_marker` finds, but on one node nothing: a node that does not mount the folder."""

    def __init__(self, node: str) -> None:
        self.node = node

    def __call__(self, folder: SharedFolder) -> str | None:
        return None if ray.get_runtime_context().get_node_id() == self.node else read_marker(folder)


@pytest.mark.usefixtures("engine")
def test_a_folder_that_a_node_does_not_see_is_refused_before_work(cluster: Any, tmp_path: Path) -> None:
    blind = cluster.list_all_nodes()[1].node_id
    with pytest.raises(UserError, match=f"not shared by all nodes: node .*{blind[:8]}"):
        RayEngine(tmp_path / "work", reads=BlindNode(blind))
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("engine")
def test_a_node_that_joins_without_the_folder_is_refused(tmp_path: Path) -> None:
    """The mark goes away under the engine: no worker process that has not seen it yet does any work."""
    other = RayEngine(tmp_path)
    next(tmp_path.glob(".nodes-*")).unlink()
    with pytest.raises(UserError, match="joined and does not see it"):
        list(other.map(where, range(2)))
    other.close()


@pytest.mark.usefixtures("engine")
def test_marks_of_killed_drivers_are_removed(tmp_path: Path) -> None:
    import socket

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f".nodes-{socket.gethostname()}-{gone.pid}-00000000"
    live = tmp_path / f".nodes-{socket.gethostname()}-{os.getpid()}-00000000"
    for mark in (old, live):
        mark.write_text("word")
    RayEngine(tmp_path).close()
    assert list(tmp_path.iterdir()) == [live]


@pytest.mark.usefixtures("engine")
def test_what_the_cluster_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--workers 0"):
        RayEngine(tmp_path, workers=0)
    with pytest.raises(UserError, match="no GPU"):
        RayEngine(tmp_path, device="cuda")
    with pytest.raises(UserError, match="use --device cuda"):
        RayEngine(tmp_path, device="cuda:1")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RayEngine(tmp_path / "file" / "work")
    one = RayEngine(tmp_path, workers=1, device="auto")
    assert (one.workers, list(one.map(complain, range(2)))) == (1, [0, 1])


def test_without_a_cluster_or_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="--ray-address HOST:PORT"):
        RayEngine(tmp_path)
    with pytest.raises(UserError, match="client"):
        RayEngine(tmp_path, "ray://head:10001")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs the package ray"):
        RayEngine(tmp_path)


def test_commands_without_work_items_refuse_the_engine(capsys: pytest.CaptureFixture) -> None:
    import cli

    assert cli.main(["train-teacher", "--engine", "ray"]) == 2
    assert "--engine ray is for sample, score" in capsys.readouterr().err


def _sample_command(cluster: Any, workspace: Path, out: Path) -> list[str]:
    words = f"sample --nfake-per-class 300 --rho 0.5 --block-size 64 --pilot-candidates 64 --workspace {workspace}"
    return [
        sys.executable,
        "cli.py",
        *words.split(),
        "--engine",
        "ray",
        "--ray-address",
        cluster.address,
        "--out",
        str(out),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_driver_leaves_a_folder_that_continues(
    cluster: Any, workspace: Any, tmp_path: Path, stop: signal.Signals
) -> None:
    out, plain = tmp_path / "ray", tmp_path / "local"
    assert workspace.type("sample", f"--nfake-per-class 300 --out {plain}") == 0
    command = _sample_command(cluster, workspace.folder, out)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len(list(out.glob("shards/*.h5"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the command ended before it could be stopped"
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL), said
    assert not (out / "manifest.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert open_fakes(out).digest == open_fakes(plain).digest
    assert verify_fakes(out) == []
    assert not list(out.rglob(".*.tmp")) + list(out.glob(".nodes-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_every_command_with_work_items_gives_the_same_on_ray(
    workspace: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    far = "--engine ray --ray-address auto"
    fakes, again = tmp_path / "local", tmp_path / "ray"
    assert workspace.type("sample", f"--out {fakes}") == workspace.type("sample", f"--out {again} {far}") == 0
    assert file_bytes(fakes) == file_bytes(again)
    other = tmp_path / "other"
    assert workspace.type("train-classifier", f"--seed 5 --out {other}") == 0
    for folder, engine in ((fakes, ""), (again, far)):
        assert workspace.type("score", f"{folder} --predictor {other} {engine}") == 0
    assert file_bytes(fakes) == file_bytes(again)
    sorted((again / "shards").glob("*.h5"))[0].unlink()
    assert workspace.type("repair", f"{again} {far}") == 0
    assert file_bytes(fakes) == file_bytes(again)
    for command in ("search-rho", "evaluate --judge-steps 20 --images-per-class 20"):
        name, _, text = command.partition(" ")
        near = workspace.json(capsys, name, f"{text} --fakes {fakes} --out {tmp_path / name}")
        there = workspace.json(capsys, name, f"{text} --fakes {fakes} --out {tmp_path / (name + '-ray')} {far}")
        found = ("choice", "table") if name == "search-rho" else ("rows",)
        assert [near[key] for key in found] == [there[key] for key in found]


@pytest.mark.slow
def test_a_cluster_started_for_one_command(workspace: Any, tmp_path: Path) -> None:
    words = f"sample --nfake-per-class 40 --workspace {workspace.folder} --engine ray --ray-address local --out"
    done = subprocess.run(
        [sys.executable, "cli.py", *words.split(), str(tmp_path / "o"), "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["images"] == 400
    assert verify_fakes(tmp_path / "o") == []

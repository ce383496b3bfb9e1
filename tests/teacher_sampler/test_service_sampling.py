"""Sampling over HTTP: the bytes of local sampling, through kills of either side; and the command that serves."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cli
from image_data.fake import FakeDataset, verify_fakes
from interfaces import LabelSpace, Teacher
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler import load_teacher
from teacher_sampler.remote import wire
from teacher_sampler.remote.client import RemoteTeacher
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import fixed_numerics
from tests.support.teacher_service import QUICK, STEADY, ServingProcess, keys_of
from tests.support.tiny_sampling import (
    ANGLES,
    CLASSES,
    TinyParts,
    angle_plan,
    angle_settings,
    class_plan,
    file_bytes,
    save_tiny_teacher,
    tiny_settings,
)

pytestmark = pytest.mark.xdist_group("teacher service")  # one process starts the services

SPACES: dict[str, LabelSpace] = {"classes": CLASSES, "angles": ANGLES}
REQUESTS: dict[str, tuple[LabelPlan, SamplerSettings]] = {
    "classes": (class_plan(), tiny_settings()),
    "angles": (angle_plan(), angle_settings()),
}


@dataclass
class Served:
    """A teacher's folder, the process that serves it, and what local sampling makes of it."""

    folder: Path
    process: ServingProcess
    fakes: FakeDataset
    plan: LabelPlan
    settings: SamplerSettings


@contextmanager
def serving(kind: str, place: Path) -> Iterator[Served]:
    folder = save_tiny_teacher(place / "teacher", SPACES[kind])
    plan, settings = REQUESTS[kind]
    fakes = sample(TinyParts(folder), plan, settings, place / "local", LocalEngine(1))
    process = ServingProcess(folder, "--workers", "2", OMP_NUM_THREADS="2")  # the service computes with one even so
    made = Served(folder, process, fakes, plan, settings)
    try:
        yield made
        assert made.process.stop(signal.SIGTERM) == (0, "", "")  # perhaps a successor
    finally:
        made.process.kill()


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("classes", tmp_path_factory.mktemp("classes")) as made:
        yield made


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("angles", tmp_path_factory.mktemp("angles")) as made:
        yield made


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


def over(*kinds: str) -> pytest.MarkDecorator:
    """Run the test over these services."""
    return pytest.mark.parametrize("served", kinds, indirect=True)


def remote_parts(address: str) -> TinyParts:
    """`load_teacher` takes an address in the place of a folder."""
    return TinyParts(address)  # type: ignore[arg-type]


def same(one: FakeDataset, two: FakeDataset) -> bool:
    return one.digest == two.digest and file_bytes(one.path) == file_bytes(two.path)


@over("classes", "angles")
def test_the_bytes_of_local_sampling(served: Served, tmp_path: Path) -> None:
    parts = remote_parts(served.process.address)
    fakes = sample(parts, served.plan, served.settings, tmp_path / "o", LocalEngine(1))
    assert same(fakes, served.fakes)
    assert verify_fakes(fakes.path) == []


@over("classes")
def test_the_same_bytes_for_two_worker_processes(served: Served, tmp_path: Path) -> None:
    parts = remote_parts(served.process.address)
    assert same(sample(parts, served.plan, served.settings, tmp_path / "o", LocalEngine(2)), served.fakes)


@over("classes", "angles")
def test_two_blocks_at_once_have_their_own_bytes(served: Served) -> None:
    local = load_teacher(served.folder, torch.device("cpu"))
    found: dict[int, torch.Tensor] = {}

    def ask(number: int) -> None:
        remote = RemoteTeacher.connect(served.process.address, patience=STEADY)
        latents, labels, keys = block(remote, 256, 256 * number)
        found[number] = remote.generate(latents, labels, keys, 3)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert len(found) == 4
    for number, images in found.items():
        with fixed_numerics(SamplerSettings()):
            latents, labels, keys = block(local, 256, 256 * number)
            expected = quantise(local.generate(latents, labels, keys, 3))
        assert torch.equal(quantise(images), expected)


def block(teacher: Teacher, rows: int, first: int) -> tuple[torch.Tensor | None, np.ndarray, np.ndarray]:
    labels = np.arange(rows) % 3
    labels = labels if teacher.label_space.kind == "classes" else labels * 7.25
    keys = keys_of(labels, first)
    return teacher.latents(keys, 3), labels, keys


@over("classes", "angles")
def test_the_card_and_the_digest(served: Served) -> None:
    remote = RemoteTeacher.connect(served.process.address, patience=STEADY)
    local = load_teacher(served.folder, torch.device("cpu"))
    assert isinstance(remote, Teacher)
    assert remote.digest == served.process.digest
    assert remote.label_space == local.label_space
    assert (remote.card.latent, remote.card.resolution_px) == (local.card.latent, local.card.resolution_px)
    assert remote.card.arguments == {"served": "biggan", "sampling": {}}
    assert remote.candidates(np.array([0])) is None


@dataclass(frozen=True)
class KillingParts:
    """Parts whose teacher freezes and kills its own service before the third block, and has it started again."""

    served: Served

    def __call__(self) -> SamplingParts:
        parts = TinyParts.__call__(remote_parts(self.served.process.address))
        teacher: Any = parts.teacher
        calls, plain = [0], teacher.generate

        def generate(*arguments: Any) -> torch.Tensor:
            calls[0] += 1
            if calls[0] == 3:
                self.served.process.freeze()  # the request is sent, and its answer never comes
                threading.Thread(target=self.start_again).start()
            return plain(*arguments)

        teacher.generate = generate
        return parts

    def start_again(self) -> None:
        time.sleep(0.3)
        self.served.process.kill()
        self.served.process = ServingProcess(self.served.folder, port=self.served.process.port)


@over("classes")
def test_the_service_is_killed_in_the_middle_of_a_request(served: Served, tmp_path: Path) -> None:
    before = served.process.process.pid
    fakes = sample(KillingParts(served), served.plan, served.settings, tmp_path / "o", LocalEngine(1))
    assert served.process.process.pid != before
    assert same(fakes, served.fakes)


def sample_killed(address: str, plan: LabelPlan, settings: SamplerSettings, out: Path) -> None:
    os.environ["RETORT_FAILURE_POINT"] = "sampler.unit_computed:3"
    sample(remote_parts(address), plan, settings, out, LocalEngine(1))


@over("angles")
def test_the_sampler_is_killed_and_run_again(served: Served, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_sampling", "teacher_sampler.sampling.sampler"])
    words = (served.process.address, served.plan, served.settings, tmp_path / "o")
    process = context.Process(target=sample_killed, args=words)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(file_bytes(tmp_path / "o")) > 0
    parts = remote_parts(served.process.address)
    assert same(sample(parts, served.plan, served.settings, tmp_path / "o", LocalEngine(1)), served.fakes)


def test_the_service_ends_in_peace_and_keeps_its_token(tmp_path: Path, monkeypatch: Any) -> None:
    folder = save_tiny_teacher(tmp_path / "teacher", CLASSES)
    (tmp_path / "token").write_text("s3cret\n")
    process = ServingProcess(folder, "--token-file", str(tmp_path / "token"), "--host", "0.0.0.0")
    address = f"http://127.0.0.1:{process.port}"
    with pytest.raises(UserError, match="401"):
        RemoteTeacher.connect(address, patience=QUICK)
    monkeypatch.setenv(wire.TOKEN_VARIABLE, "s3cret")
    assert RemoteTeacher.connect(address, patience=QUICK).digest == process.digest
    assert process.stop(signal.SIGINT) == (0, "", "")


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["serve-teacher", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1
    return shown.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", ""])
def test_other_machines_need_a_token(host: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv(wire.TOKEN_VARIABLE, raising=False)
    told = refused(capsys, "--host", host, "--workspace", str(tmp_path / "w"))
    assert "RETORT_TEACHER_TOKEN" in told
    monkeypatch.setenv(wire.TOKEN_VARIABLE, "")
    refused(capsys, "--host", host, "--workspace", str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def test_bad_options_of_the_command(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    folder = str(save_tiny_teacher(tmp_path / "teacher", CLASSES))
    (tmp_path / "token").write_text("two words")
    for file in ("token", "missing"):
        assert "--token-file" in refused(capsys, "--teacher", folder, "--token-file", str(tmp_path / file))
    monkeypatch.setenv(wire.TOKEN_VARIABLE, "two words")
    assert "RETORT_TEACHER_TOKEN" in refused(capsys, "--teacher", folder)
    monkeypatch.delenv(wire.TOKEN_VARIABLE)
    assert "does not exist" in refused(capsys, "--teacher", str(tmp_path / "none"))
    assert "--max-batch" in refused(capsys, "--max-batch", "0", "--teacher", folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install fastapi uvicorn" in refused(capsys, "--teacher", folder)


def test_a_port_that_is_taken(tmp_path: Path, capsys: Any) -> None:
    import socket

    folder = str(save_tiny_teacher(tmp_path / "teacher", CLASSES))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = refused(capsys, "--teacher", folder, "--port", str(taken.getsockname()[1]))
    assert "--port" in told


@over("classes")
def test_the_sample_command_takes_an_address(served: Served, tmp_path: Path, capsys: Any) -> None:
    """The same command with a folder and with the address that it is served at: one digest."""
    digests = []
    for name, teacher in (("local", str(served.folder)), ("remote", served.process.address)):
        words = ["--filter", "none", "--predictor", "none", "--nfake-per-class", "70", "--block-size", "64", "--json"]
        capsys.readouterr()
        assert cli.main(["sample", "--teacher", teacher, *words, "--out", str(tmp_path / name)]) == 0
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] == digests[1]
    assert file_bytes(tmp_path / "local") == file_bytes(tmp_path / "remote")


@over("angles")
def test_an_address_becomes_a_folder(served: Served, tmp_path: Path, capsys: Any) -> None:
    """A teacher folder that holds nothing but the address and the card samples the same dataset."""
    folder = tmp_path / "teacher"
    words = ["import-teacher", "--arch", "http", "--checkpoint", served.process.address, "--out", str(folder)]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert not list(folder.rglob("*.safetensors"))
    fakes = sample(TinyParts(folder), served.plan, served.settings, tmp_path / "o", LocalEngine(1))
    assert same(fakes, served.fakes)

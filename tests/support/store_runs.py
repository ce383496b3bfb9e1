"""What the tests of the store share: sampling in processes that can be killed, small disks, and comparisons."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image_data.fake import FakeDataset, open_fakes
from runtime import failure_points
from runtime.engines import LocalEngine
from teacher_sampler.sampling.sampler import sample
from tests.support.tiny_sampling import TinyParts, class_plan, file_bytes, tiny_settings

ForkServer = multiprocessing.context.ForkServerContext
FAKES = 40  # of each label
ARMED = "RETORT_FAILURE_POINT"


def fork_server() -> ForkServer:
    """Processes forked from a fresh interpreter that has torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_sampling", "teacher_sampler.sampling.sampler"])
    return context


def run(teacher: Path, out: Path, workers: int = 1, fakes: int = FAKES, extend: bool = False) -> FakeDataset:
    """The request that all these tests make."""
    engine = LocalEngine(workers)
    try:
        return sample(TinyParts(teacher), class_plan(fakes), tiny_settings(), out, engine, extend=extend)
    finally:
        engine.close()


def run_armed(teacher: Path, out: Path, armed: str, workers: int = 1, fakes: int = FAKES, extend: bool = False) -> None:
    """The same in a process of its own, which dies where the failure point says."""
    os.environ[ARMED] = armed
    run(teacher, out, workers, fakes, extend)


def passages(name: str, teacher: Path, out: Path, monkeypatch: pytest.MonkeyPatch, fakes: int = FAKES) -> int:
    """How often an undisturbed run passes a failure point."""
    arm(monkeypatch, f"{name}:1000000")
    run(teacher, out, fakes=fakes)
    monkeypatch.delenv(ARMED)
    return failure_points._passages[name]


def arm(monkeypatch: pytest.MonkeyPatch, armed: str) -> None:
    """Let this process pass the failure points from the beginning."""
    failure_points._passages.clear()
    monkeypatch.setenv(ARMED, armed)


def same(one: Path, two: Path) -> bool:
    """Equal sealed files, equal digest."""
    return file_bytes(one) == file_bytes(two) and open_fakes(one).digest == open_fakes(two).digest


def flip(path: Path, position: int, bits: int = 0x10) -> None:
    """Change one byte of a file in place."""
    with open(path, "r+b") as stream:
        stream.seek(position)
        before = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([before ^ bits]))


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size; the test is skipped where none can be mounted."""
    place.mkdir()
    mount = shutil.which("mount")
    words = [mount or "mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize_disk(place: Path, kilobytes: int) -> None:
    """Make the small disk larger or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(place)], check=True)

"""Disk and memory are estimated before work starts, close to what is used, and refused where they do not suffice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from image_data.fake import FakeDataset, describe_fakes, open_fakes
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.free_space import free_disk_bytes, free_memory_bytes
from teacher_sampler.sampling import disk_space
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.sampler import sample
from tests.support.store_runs import run, small_disk
from tests.support.tiny_sampling import (
    ANGLES,
    CLASSES,
    TinyParts,
    angle_plan,
    angle_settings,
    class_plan,
    save_tiny_teacher,
    tiny_settings,
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


def rates(fakes: FakeDataset) -> np.ndarray:
    return np.array([entry["acceptance_rate"] for entry in describe_fakes(fakes.path)["by_label"]])


@pytest.mark.slow
def test_the_estimate_is_what_is_used(teacher: Path, tmp_path: Path) -> None:
    """With known acceptance: never less than the bytes on disk, and not three times as much even for tiny shards."""
    angles = save_tiny_teacher(tmp_path / "angles", ANGLES)
    large = tiny_settings(unit_candidates=1024, block_size=128)
    made = (
        sample(TinyParts(teacher), class_plan(1500), large, tmp_path / "large", LocalEngine(1)),
        run(teacher, tmp_path / "small"),
        sample(TinyParts(angles), angle_plan(), angle_settings(), tmp_path / "turned", LocalEngine(1)),
        sample(TinyParts(teacher, False, False), class_plan(200), large, tmp_path / "plain", LocalEngine(1)),
    )
    for fakes, slack in zip(made, (1.4, 4.0, 4.0, 2.0), strict=True):
        content, per_label = load_run(fakes.path)
        used = sum(path.stat().st_size for path in fakes.path.rglob("*") if path.is_file())
        needs = disk_space.estimate(content, per_label, rates(fakes)).disk_bytes
        assert used <= needs <= slack * used, (fakes.path.name, needs / used)


def test_memory_grows_with_units_blocks_and_workers(teacher: Path, tmp_path: Path) -> None:
    content, _ = load_run(run(teacher, tmp_path / "o").path)
    one, two = disk_space.estimate(content, 40), disk_space.estimate(content, 40, workers=2)
    assert two.memory_bytes == 2 * one.memory_bytes
    assert disk_space.estimate(content, 4000).memory_bytes == one.memory_bytes  # constant as the dataset grows
    assert one.disk_bytes < disk_space.estimate(content, 4000).disk_bytes


def test_a_disk_that_is_too_small_is_refused_before_any_work(teacher: Path, tmp_path: Path) -> None:
    """A real one: nothing is written, and a smaller request fits into the same folder."""
    with small_disk(tmp_path / "disk", 1000) as disk:
        out = disk / "o"
        assert free_disk_bytes(out / "not" / "there") == free_disk_bytes(disk) <= 1000 * 1024
        with pytest.raises(UserError, match=rf"--out {out} needs about .* more, and its disk has 1\.02 MB free; make"):
            run(teacher, out, fakes=5000)
        assert [path.name for path in out.iterdir()] == [".lock"]
        digest = run(teacher, out).digest
        with pytest.raises(UserError, match="needs about"):
            run(teacher, out, fakes=5000, extend=True)
        assert run(teacher, out).digest == digest == open_fakes(out).digest


def test_a_pilot_may_show_that_the_disk_is_too_small(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guess before the pilot lets the run begin; the ledgers of the many candidates do not fit."""
    content, _ = load_run(run(teacher, tmp_path / "known", fakes=200).path)
    guessed = disk_space.estimate(content, 200).disk_bytes
    measured = disk_space.estimate(content, 200, np.full(3, 0.02)).disk_bytes
    assert guessed * 1.05 < measured
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda path: int(guessed * 1.06))
    monkeypatch.setattr("teacher_sampler.sampling.pilot.label_ceilings", lambda r, *rest: r.max(axis=1) * 200)
    with pytest.raises(UserError, match="needs about"):
        run(teacher, tmp_path / "o", fakes=200)
    assert not (tmp_path / "o" / "shards").exists()


def test_too_little_memory_is_refused(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = free_memory_bytes()
    assert found is None or 1 << 20 < found < 1 << 50
    monkeypatch.setattr(disk_space, "free_memory_bytes", lambda: 300_000_000)
    with pytest.raises(UserError, match=r"needs about 0\.\d+ GB of memory for 1 process, and 0\.30 GB are free"):
        run(teacher, tmp_path / "o")
    assert not (tmp_path / "o" / "run.json").exists()
    monkeypatch.setattr(disk_space, "free_memory_bytes", lambda: None)
    assert len(run(teacher, tmp_path / "o")) == 120


def test_the_command_refuses_and_says_what_it_needs(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    with small_disk(tmp_path / "disk", 1000) as disk:
        fixed = ["--teacher", str(teacher), "--filter", "none", "--predictor", "none", "--out", str(disk / "o")]
        assert cli.main(["sample", *fixed, "--nfake-per-class", "9000"]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"--out {disk / 'o'} needs about" in told
        assert cli.main(["sample", *fixed, "--nfake-per-class", "9000", "--dry-run", "--json"]) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert f"--out {disk / 'o'} needs about" in shown.err
        needs = json.loads(shown.out)["needs"]
        assert needs["fakes"] == 27_000
        assert needs["disk_mb"] > 1.0
        assert needs["disk_free_mb"] == pytest.approx(1.02, abs=0.1)
        assert needs["memory_mb"] > 100
        assert cli.main(["sample", *fixed, "--nfake-per-class", "100"]) == 0

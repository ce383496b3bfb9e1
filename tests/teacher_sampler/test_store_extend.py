"""A finished dataset grows: its shards stay, it can be read meanwhile, and it ends as one that was made at once."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from image_data.fake import FakeDataset, open_fakes, verify_fakes
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import LabelPlan, SamplerSettings, sample
from tests.support.store_runs import fork_server, run, run_armed, same
from tests.support.tiny_sampling import CLASSES, TinyParts, file_bytes, save_tiny_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def at_once(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole").path


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.h5"))}


def same_fakes(one: FakeDataset, two: FakeDataset) -> bool:
    """Equal images, labels, candidates, latents and ratios in equal order, however they are cut into shards."""
    rows = np.arange(len(one))
    pairs = (
        (one.images(rows), two.images(rows)),
        (one.labels, two.labels),
        (one.sample_index, two.sample_index),
        (one.latents(rows), two.latents(rows)),
        (one.density_ratio, two.density_ratio),
    )
    return all(np.array_equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_shards_stay_and_the_end_is_that_of_one_run(
    workers: int, teacher: Path, at_once: Path, tmp_path: Path
) -> None:
    """Bytes and times of every file of the finished dataset; surplus units of its run were removed and come again."""
    run(teacher, tmp_path, workers, fakes=15)
    short, before = file_bytes(tmp_path), times(tmp_path)
    run(teacher, tmp_path, workers, extend=True)
    assert {path: time for path, time in times(tmp_path).items() if path in before} == before
    assert {name: data for name, data in file_bytes(tmp_path).items() if name in short} == short
    assert same(tmp_path, at_once)
    assert verify_fakes(tmp_path) == []


def test_killed_half_way_it_is_what_it_was_and_goes_on(teacher: Path, at_once: Path, tmp_path: Path) -> None:
    digest = run(teacher, tmp_path, fakes=15).digest
    before = times(tmp_path)
    images = open_fakes(tmp_path).images(np.arange(45))
    for armed in ("store.shard_committed:3", "store.before_manifest"):
        process = fork_server().Process(target=run_armed, args=(teacher, tmp_path, armed, 1, 40, True))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert open_fakes(tmp_path).digest == digest
        assert np.array_equal(open_fakes(tmp_path).images(np.arange(45)), images)
        problems = verify_fakes(tmp_path)
        assert problems
        assert all("extends the dataset is unfinished" in problem for problem in problems)
        with pytest.raises(UserError, match="select fewer"):
            run(teacher, tmp_path, fakes=10)
        back = tmp_path.with_name(f"back from {armed}")
        shutil.copytree(tmp_path, back)
        assert run(teacher, back, fakes=15).digest == digest  # the old number ends it
        assert file_bytes(back).keys() == {str(path.relative_to(tmp_path)) for path in before}
        assert verify_fakes(back) == []
    run(teacher, tmp_path)  # the number stands in run.json now: no need to say `extend` again
    assert {path: time for path, time in times(tmp_path).items() if path in before} == before
    assert same(tmp_path, at_once)


@pytest.mark.slow
def test_from_5000_to_10000_of_each_class(teacher: Path, tmp_path: Path) -> None:
    """Default units depend on the number asked for, so the shards are cut otherwise than at once: equal fakes.
    With the units named, equal bytes."""
    for name, settings in (
        ("default", SamplerSettings(ceiling_quantile=0.99)),
        ("named", SamplerSettings(unit_candidates=2048, ceiling_quantile=0.99)),
    ):
        grown, whole = tmp_path / name, tmp_path / f"{name} at once"
        make(teacher, settings, grown, 5000)
        before, short = times(grown), file_bytes(grown)
        make(teacher, settings, grown, 10_000, extend=True)
        make(teacher, settings, whole, 10_000)
        assert {path: time for path, time in times(grown).items() if path in before} == before
        assert short.items() <= file_bytes(grown).items()
        assert same_fakes(open_fakes(grown), open_fakes(whole))
        assert same(grown, whole) == (name == "named")


def make(teacher: Path, settings: SamplerSettings, out: Path, fakes: int, extend: bool = False) -> FakeDataset:
    plan = LabelPlan.classes(CLASSES, fakes)
    return sample(TinyParts(teacher), plan, settings, out, LocalEngine(1), extend=extend)


def command(capsys: Any, teacher: Path, out: Path, words: str) -> dict[str, Any]:
    """`sample` of that teacher without filter; the exit code and what it said."""
    fixed = ["--teacher", str(teacher), "--filter", "none", "--predictor", "none", "--block-size", "32", "--json"]
    capsys.readouterr()
    code = cli.main(["sample", *fixed, "--out", str(out), "--unit-candidates", "32", *words.split()])
    shown = capsys.readouterr()
    return {"code": code, "said": shown.err, **(json.loads(shown.out) if code == 0 else {})}


def test_the_command_extends(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    out, other = tmp_path / "o", tmp_path / "at once"
    assert command(capsys, teacher, out, "--nfake-per-class 40")["code"] == 0
    before = times(out)
    refused = command(capsys, teacher, out, "--nfake-per-class 80")
    assert refused["code"] == 2
    assert "begun with 40 fakes of each label, and 80 are asked for; give --extend" in refused["said"]
    grown = command(capsys, teacher, out, "--nfake-per-class 80 --extend")
    assert grown["images"] == 240
    assert grown["digest"] == command(capsys, teacher, other, "--nfake-per-class 80")["digest"]
    assert {path: time for path, time in times(out).items() if path in before} == before
    assert cli.main(["verify", str(out)]) == 0
    for words in ("--nfake-per-class 80", "--nfake-per-class 80 --extend"):
        assert command(capsys, teacher, out, words)["digest"] == grown["digest"]
    fewer = command(capsys, teacher, out, "--nfake-per-class 40 --extend")
    assert (fewer["code"], "--extend only adds" in fewer["said"]) == (2, True)
    seeded = command(capsys, teacher, out, "--nfake-per-class 90 --extend --seed 3")
    assert (seeded["code"], "seed: 0 then, 3 now" in seeded["said"]) == (2, True)
    assert open_fakes(out).digest == grown["digest"]
    assert json.loads((out / "command.json").read_text())["content"]["options"]["nfake_per_class"] == 80
    half_the_error = command(capsys, teacher, out, "--nfake-per-class 80 --rho 0.5 --extend")
    assert half_the_error["per_label"] == 160


def test_the_command_says_what_extend_needs(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    capsys.readouterr()
    words = ["--teacher", str(teacher), "--filter", "none", "--predictor", "none", "--workspace", str(tmp_path / "w")]
    assert cli.main(["sample", *words, "--extend"]) == 2
    assert "--extend needs --out DIR" in capsys.readouterr().err
    new = command(capsys, teacher, tmp_path / "new", "--nfake-per-class 10 --extend")  # nothing to extend: a beginning
    assert new["images"] == 30


def test_an_unfinished_extension_goes_on_by_the_same_command(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    """A stop between the record of the command and the first new unit, and one in the middle."""
    out = tmp_path / "o"
    assert command(capsys, teacher, out, "--nfake-per-class 40")["code"] == 0
    for armed in ("atomic.after_rename:1", "store.shard_committed:1"):
        process = fork_server().Process(target=extend_armed, args=(teacher, out, armed))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(open_fakes(out)) == 120
    grown = command(capsys, teacher, out, "--nfake-per-class 80 --extend")
    assert grown["digest"] == command(capsys, teacher, tmp_path / "once", "--nfake-per-class 80")["digest"]


def extend_armed(teacher: Path, out: Path, armed: str) -> None:
    import os

    os.environ["RETORT_FAILURE_POINT"] = armed
    fixed = ["--teacher", str(teacher), "--filter", "none", "--predictor", "none", "--block-size", "32"]
    words = ["--unit-candidates", "32", "--nfake-per-class", "80", "--extend"]
    cli.main(["sample", *fixed, "--out", str(out), *words])


def test_the_cap_may_be_raised_in_the_same_folder(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    """As the error of a starving label advises."""
    out = tmp_path / "o"
    starved = command(capsys, teacher, out, "--nfake-per-class 80 --max-candidates-per-label 64")
    assert (starved["code"], "raise the cap" in starved["said"]) == (2, True)
    assert command(capsys, teacher, out, "--nfake-per-class 80 --max-candidates-per-label 640")["images"] == 240


def test_a_flipped_byte_of_the_record_is_found(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    assert command(capsys, teacher, tmp_path, "--nfake-per-class 20")["code"] == 0
    path = tmp_path / "command.json"
    whole = path.read_bytes()
    for position in np.random.default_rng(2).integers(len(whole), size=40).tolist():
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x04]) + whole[position + 1 :])
        assert cli.main(["verify", str(tmp_path)]) == 2, position
    path.write_bytes(whole)
    assert cli.main(["verify", str(tmp_path)]) == 0

"""An extension that fails, is refused or is given up: the finished dataset is what it was, and says what helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from filters.nearest_scores import score_nearest
from image_data.fake import open_fakes, verify_fakes
from image_data.fake.sealed import SCORE_LAYOUT, SHARD_LAYOUT, locate
from image_data.sources import ArraySource
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling import disk_space
from teacher_sampler.sampling.runs import load_run, one_writer
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.upkeep.repair import repair
from tests.support.store_runs import arm, flip, run, same
from tests.support.tiny_sampling import CLASSES, TinyParts, class_plan, file_bytes, save_tiny_teacher, tiny_settings

FEW = 8  # fakes of each label


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another teacher stands for the same one on a machine that rounds otherwise."""
    return save_tiny_teacher(tmp_path_factory.mktemp("other"), CLASSES, width=5)


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole", fakes=FEW).path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "o"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def grow(teacher: Path, out: Path, fakes: int, cap: int | None = None) -> None:
    settings = tiny_settings(max_candidates_per_label=cap)
    sample(TinyParts(teacher), class_plan(fakes), settings, out, LocalEngine(1), extend=True)


def test_an_extension_that_cannot_succeed_changes_nothing(
    teacher: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the cap allows, more than the pilot promises, more than the disk holds."""
    before = contents(copy)
    for fakes, cap in ((200, 150), (600, 640)):
        with pytest.raises(UserError, match=f"starves: the pilot expects .*{cap} candidates allowed"):
            grow(teacher, copy, fakes, cap)
        assert contents(copy) == before
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda path: 10_000)
    with pytest.raises(UserError, match="needs about"):
        grow(teacher, copy, 100)
    assert contents(copy) == before
    assert verify_fakes(copy) == []


@pytest.mark.parametrize("extend", [False, True])
def test_the_old_number_ends_an_extension_that_failed(extend: bool, teacher: Path, whole: Path, copy: Path) -> None:
    before = contents(copy)
    with pytest.raises(UserError, match=r"starves: \d+ of 128 candidates were accepted"):
        grow(teacher, copy, 29, cap=128)
    assert verify_fakes(copy)
    assert repair(copy, TinyParts(teacher), LocalEngine(1)) == []  # the run may yet go on
    with pytest.raises(UserError, match="select fewer"):
        run(teacher, copy, fakes=FEW - 1, extend=extend)
    (copy / "shards" / ".unit-00000-00009.h5.x.tmp").write_bytes(b"half")
    assert run(teacher, copy, fakes=FEW, extend=extend).digest == open_fakes(whole).digest
    assert contents(copy) == before
    assert verify_fakes(copy) == []


def test_a_smaller_extension_follows_one_that_failed(teacher: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="starves"):
        grow(teacher, copy, 29, cap=128)
    with pytest.raises(UserError, match=r"holds 8 fakes of each label, and 20 are asked for; give --extend"):
        run(teacher, copy, fakes=20)
    run(teacher, copy, fakes=20, extend=True)
    assert same(copy, run(teacher, tmp_path / "once", fakes=20).path)
    assert verify_fakes(copy) == []


def command(capsys: Any, teacher: Path, out: Path, words: str) -> tuple[int, str]:
    """`sample` of that teacher without filter: exit code, and what it said on stderr."""
    fixed = ["--teacher", str(teacher), "--filter", "none", "--predictor", "none", "--block-size", "32"]
    capsys.readouterr()
    code = cli.main(["sample", *fixed, "--out", str(out), "--unit-candidates", "32", *words.split()])
    return code, capsys.readouterr().err


def test_the_original_command_ends_an_extension(
    teacher: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, and stopped at its first file, after its first unit and before its manifest; the record stays."""
    out = tmp_path / "o"
    assert command(capsys, teacher, out, "--nfake-per-class 40")[0] == 0
    before = contents(out)
    assert command(capsys, teacher, out, "--nfake-per-class 80 --extend --max-candidates-per-label 64")[0] == 2
    assert contents(out) == before
    old, same_number = "--nfake-per-class 40", "--nfake-per-class 20 --rho 0.5 --extend"
    points = ("atomic.after_rename:1", "store.shard_committed:1", "store.before_manifest:1")
    for armed, words in zip(points, (old, old, same_number), strict=True):
        arm(monkeypatch, f"{armed}=enospc")
        assert command(capsys, teacher, out, "--nfake-per-class 80 --extend")[0] == 2
        monkeypatch.delenv("RETORT_FAILURE_POINT")
        assert cli.main(["verify", str(out)]) == 2
        assert "one for 40 fakes of each label takes it back" in capsys.readouterr().out
        assert contents(out)["command.json"] == before["command.json"]
        assert command(capsys, teacher, out, words)[0] == 0
        assert cli.main(["verify", str(out)]) == 0
        changed = {name for name, data in contents(out).items() if before.get(name) != data}
        assert changed == (set() if words == old else {"command.json"})
        assert contents(out).keys() == before.keys()
    assert command(capsys, teacher, out, old)[0] == 0
    arm(monkeypatch, "store.shard_committed:1=enospc")
    assert command(capsys, teacher, out, "--nfake-per-class 80 --extend")[0] == 2
    monkeypatch.delenv("RETORT_FAILURE_POINT")
    assert command(capsys, teacher, out, "--nfake-per-class 80")[0] == 0  # the number stands in run.json
    assert len(open_fakes(out)) == 240
    assert json.loads((out / "command.json").read_text())["content"]["options"]["nfake_per_class"] == 80
    assert cli.main(["verify", str(out)]) == 0


def test_files_of_another_process_are_left_alone(teacher: Path, tmp_path: Path, capsys: Any) -> None:
    """A manifest that `score` is writing beside a `sample` that is finished, and beside one that is refused."""
    out = tmp_path / "o"
    assert command(capsys, teacher, out, "--nfake-per-class 40")[0] == 0
    writing = out / ".manifest.json.abc.tmp"
    writing.write_text("half")
    before = contents(out)
    with one_writer(out):
        assert command(capsys, teacher, out, "--nfake-per-class 40")[0] == 0
        code, said = command(capsys, teacher, out, "--nfake-per-class 80 --extend")
        assert (code, "another process is writing" in said) == (2, True)
    assert contents(out) == before
    assert command(capsys, teacher, out, "--nfake-per-class 80 --extend")[0] == 0
    assert not writing.exists()


@pytest.mark.parametrize("harm", ["shard gone", "shard damaged", "scores gone", "scores damaged", "pilot gone"])
def test_an_extension_never_makes_a_listed_file_anew(harm: str, other: Path, teacher: Path, copy: Path) -> None:
    """Another machine's bytes would take its place unseen; `repair` compares, and the extension then goes on."""
    what, how = harm.split()
    pattern = {"shard": "shards/*.h5", "scores": "scores/*/*.h5", "pilot": "pilot/*.h5"}[what]
    victim = sorted(copy.glob(pattern))[0]
    if how == "gone":
        victim.unlink()
    else:
        layout, array = (SHARD_LAYOUT, "fake_images") if what == "shard" else (SCORE_LAYOUT, "error")
        flip(victim, locate(victim, layout)[array].offset)
    before = {name: data for name, data in contents(copy).items() if name != "run.json"}
    with pytest.raises(UserError, match=rf"{victim} of the finished dataset is missing.*run `repair`"):
        grow(other, copy, 20)
    after = contents(copy)
    assert before.items() <= after.items()
    assert victim.exists() == (how != "gone")
    assert repair(copy, TinyParts(teacher), LocalEngine(1)) == [victim.name]
    grow(teacher, copy, 20)
    assert verify_fakes(copy) == []


def test_a_shard_of_another_machine_among_the_listed_ones(teacher: Path, other: Path, copy: Path) -> None:
    """Whole in itself, with the right settings, and not the one that the manifest lists."""
    name = "unit-00001-00000.h5"
    theirs = run(other, copy.with_name("theirs"), fakes=FEW).path
    for folder in ("shards", f"scores/{'p' * 64}"):
        shutil.copy(theirs / folder / name, copy / folder)
    digest = open_fakes(copy).digest
    with pytest.raises(UserError, match=rf"shards/{name} is not that of the finished dataset; run `repair`"):
        grow(teacher, copy, 20)
    assert open_fakes(copy).digest == digest
    assert repair(copy, TinyParts(teacher), LocalEngine(1)) == [name]
    grow(teacher, copy, 20)
    assert verify_fakes(copy) == []


def test_what_others_have_measured_is_not_work_that_is_done(
    copy: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = load_run(copy)
    done = sum(path.stat().st_size for path in copy.rglob("*.h5"))
    missing = disk_space.estimate(content, 4000).disk_bytes - done
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda path: missing // 2)
    for name in ("q" * 64, "nearest-a-b"):
        (copy / "scores" / name).mkdir()
        (copy / "scores" / name / "unit-00000-00000.h5").write_bytes(bytes(missing))
        with pytest.raises(UserError, match="needs about"):
            disk_space.check_space(copy, content, 4000, None, 1)
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda path: int(missing * 1.1))
    disk_space.check_space(copy, content, 4000, None, 1)  # shards, pilots and own scores are done


def measured(folder: Path) -> str:
    """Add a distance set of plain pixels; returns its name."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    source = ArraySource(images, np.arange(20) % 3)
    return score_nearest(folder, lambda pixels: pixels.float().flatten(1), source, source, "classes", "z" * 64)


def test_distances_of_the_shorter_dataset_go_when_it_grows(teacher: Path, copy: Path, capsys: Any) -> None:
    name = measured(copy)
    assert name in open_fakes(copy).manifest.scores
    grow(teacher, copy, 20)
    assert list(open_fakes(copy).manifest.scores) == ["p" * 64]
    assert not (copy / "scores" / name).exists()
    assert cli.main(["verify", str(copy)]) == 0
    assert measured(copy) != name
    assert verify_fakes(copy) == []


def test_verify_names_the_command_that_helps(teacher: Path, copy: Path, capsys: Any) -> None:
    """And no other: distances are renewed by `score --nearest`, other sets by `score`, the rest by `repair`."""
    name = measured(copy)
    helps = {
        "shards/*.h5": f"`python cli.py repair {copy}`",
        "pilot/*.h5": f"`python cli.py repair {copy}`",
        "run.json": f"`python cli.py repair {copy}`",
        f"scores/{'p' * 64}/*.h5": f"`python cli.py repair {copy}`",
        f"scores/{name}/*.h5": f"`python cli.py score {copy} --nearest`",
    }
    for pattern, remedy in helps.items():
        victim = sorted(copy.glob(pattern))[0]
        flip(victim, victim.stat().st_size - 5)
        capsys.readouterr()
        assert cli.main(["verify", str(copy)]) == 2
        told = capsys.readouterr().out.splitlines()
        assert [line for line in told if "python cli.py" in line] == [line for line in told if line.startswith(remedy)]
        assert told[-1].startswith(remedy)
        flip(victim, victim.stat().st_size - 5)
    flip(victim, victim.stat().st_size // 2)
    with pytest.raises(UserError, match=r"distances nearest-.* are damaged, run `score --nearest` again\.$"):
        repair(copy, TinyParts(teacher), LocalEngine(1))
    stray = copy / "shards" / "unit-00009-00000.h5"
    stray.write_bytes(b"")
    victim.unlink()
    assert measured(copy) == name
    capsys.readouterr()
    assert cli.main(["verify", str(copy)]) == 2
    assert "python cli.py" not in capsys.readouterr().out  # nothing that a command would mend
    stray.unlink()
    assert file_bytes(copy).keys() >= {str(victim.relative_to(copy))}

"""A full disk and a failing disk at every write: one sentence, nothing committed is lost, the same command goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from image_data.fake import export_h5, open_fakes, verify_fakes
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.failure_points import FAILURE_POINTS
from teacher_sampler.sampling import disk_space
from teacher_sampler.upkeep.repair import repair
from teacher_sampler.upkeep.scoring import score
from tests.support.store_runs import ARMED, arm, passages, resize_disk, run, same, small_disk
from tests.support.tiny_sampling import CLASSES, TinyParts, class_error, file_bytes, make_predictor, save_tiny_teacher

FEW = 8  # fakes of each label: one unit a label, so that every passage of every failure point can be tried


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole").path


def without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk shall fill up in the middle of the work, and not be found too small before it."""
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda path: 1 << 40)


def test_a_disk_that_fills_up_again_and_again(
    teacher: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file system of a few pages; each stop is followed by a little more room."""
    without_estimate(monkeypatch)
    expected = file_bytes(undisturbed)
    stops, kilobytes = 0, 4
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        out = disk / "o"
        while True:
            committed = file_bytes(out)
            stopped = ""
            try:
                run(teacher, out)
            except UserError as error:
                stopped = str(error)
            if not stopped:
                break
            assert f"{out}: No space left on device; nothing committed is lost" in stopped
            now = file_bytes(out)
            assert committed.items() <= now.items() <= expected.items()
            assert not list(out.rglob(".*.tmp"))
            stops, kilobytes = stops + 1, kilobytes + 24
            resize_disk(disk, kilobytes)
        assert stops >= 5
        assert same(out, undisturbed)
        assert verify_fakes(out) == []


@pytest.mark.parametrize("name", [name for name in FAILURE_POINTS if not name.startswith("checkpoint.")])
def test_disk_errors_at_every_write(name: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    for number in range(1, passages(name, teacher, whole, monkeypatch, FEW) + 1):
        out = tmp_path / str(number)
        arm(monkeypatch, f"{name}:{number}={('enospc', 'eio')[number % 2]}")
        with pytest.raises(UserError, match="run the same command again"):
            run(teacher, out, fakes=FEW)
        committed = file_bytes(out)
        assert committed.items() <= file_bytes(whole).items()
        assert not list(out.rglob(".*.tmp"))
        monkeypatch.delenv(ARMED)
        run(teacher, out, fakes=FEW)
        assert committed.items() <= file_bytes(out).items()
        assert same(out, whole)


def test_scores_repair_and_export_on_a_full_disk(teacher: Path, tmp_path: Path) -> None:
    """The other writers; the dataset is what it was before, and with room they get through."""
    with small_disk(tmp_path / "disk", 4000) as disk:
        out = run(teacher, disk / "o").path
        before, digest = file_bytes(out), open_fakes(out).digest
        filler = disk / "filler"
        scoring = partial(score, out, partial(make_predictor, 3, 9), class_error, "q" * 64, LocalEngine(1))
        fill(disk, filler)
        with pytest.raises(UserError, match=f"{out}: No space left"):
            scoring()
        with pytest.raises(UserError, match=r"e\.h5: No space left"):
            export_h5(out, disk / "e.h5")
        assert not list(disk.rglob(".*.tmp"))
        assert not (disk / "e.h5").exists()
        assert file_bytes(out) == before
        assert open_fakes(out).digest == digest
        victim = sorted((out / "shards").glob("*.h5"))[0]
        victim.unlink()
        fill(disk, filler)
        with pytest.raises(UserError, match=f"{out}: No space left"):
            repair(out, TinyParts(teacher), LocalEngine(1))
        filler.unlink()
        assert repair(out, TinyParts(teacher), LocalEngine(1)) == [victim.name]
        assert file_bytes(out) == before
        scoring()
        export_h5(out, disk / "e.h5")
        assert verify_fakes(out) == []


def fill(disk: Path, filler: Path) -> None:
    """Leave no page free."""
    with open(filler, "ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass

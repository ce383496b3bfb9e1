"""Disk errors, repair, later scores: nothing that was committed is lost and the bytes come out the same."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from image_data.fake import open_fakes, verify_fakes
from runtime import failure_points
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.upkeep.repair import repair
from teacher_sampler.upkeep.scoring import score
from tests.support.tiny_sampling import (
    CLASSES,
    TinyParts,
    class_error,
    class_plan,
    file_bytes,
    make_predictor,
    save_tiny_teacher,
    tiny_settings,
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fakes") / "whole"
    sample(TinyParts(teacher), class_plan(), tiny_settings(), out, LocalEngine(1))
    return out


def same(one: Path, two: Path) -> bool:
    return file_bytes(one) == file_bytes(two) and open_fakes(one).digest == open_fakes(two).digest


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("point", ["store.shard_written:5", "store.shard_synced:6", "store.before_manifest"])
def test_disk_errors_lose_nothing(
    teacher: Path, undisturbed: Path, point: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure_points._passages.clear()
    monkeypatch.setenv("RETORT_FAILURE_POINT", f"{point}={action}")
    with pytest.raises(UserError, match="run the same command again"):
        sample(TinyParts(teacher), class_plan(), tiny_settings(), tmp_path, LocalEngine(1))
    committed = file_bytes(tmp_path)
    assert committed
    assert not list(tmp_path.rglob(".*.tmp"))
    monkeypatch.delenv("RETORT_FAILURE_POINT")
    sample(TinyParts(teacher), class_plan(), tiny_settings(), tmp_path, LocalEngine(1))
    assert committed.items() <= file_bytes(tmp_path).items()
    assert same(tmp_path, undisturbed)


def test_resume_looks_into_the_shards(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Existence is not integrity: damaged, emptied and missing files of an unfinished run are made again."""
    out = tmp_path / "o"
    shutil.copytree(undisturbed, out)
    (out / "manifest.json").unlink()
    shards = sorted((out / "shards").glob("*.h5"))
    scores = sorted((out / "scores").rglob("*.h5"))
    _flip(shards[0], 3000)
    shards[1].write_bytes(shards[1].read_bytes()[:700])
    shards[2].unlink()
    scores[3].unlink()
    _flip(scores[4], scores[4].stat().st_size // 2)
    next((out / "pilot").glob("*.h5")).write_bytes(b"")
    sample(TinyParts(teacher), class_plan(), tiny_settings(), out, LocalEngine(1))
    assert verify_fakes(out) == []
    assert file_bytes(out)["shards/" + shards[1].name] == shards[1].read_bytes()
    assert open_fakes(out).digest == open_fakes(undisturbed).digest


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_repair_makes_the_same_bytes(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    shutil.copytree(undisturbed, out)
    shards = sorted((out / "shards").glob("*.h5"))
    scores = sorted((out / "scores").rglob("*.h5"))
    _flip(shards[0], 3000)
    shards[2].unlink()
    scores[1].write_bytes(scores[1].read_bytes()[:500])
    next((out / "pilot").glob("*.h5")).unlink()
    assert len(verify_fakes(out)) >= 4
    assert len(repair(out, TinyParts(teacher), LocalEngine(1))) == 4
    assert verify_fakes(out) == []
    assert same(out, undisturbed)
    assert repair(out, TinyParts(teacher), LocalEngine(1)) == []


def test_repair_with_another_teacher_says_so(undisturbed: Path, tmp_path: Path) -> None:
    from tests.support.tiny_sampling import ANGLES

    out = tmp_path / "o"
    shutil.copytree(undisturbed, out)
    sorted((out / "shards").glob("*.h5"))[0].unlink()
    other = save_tiny_teacher(tmp_path / "other", ANGLES.__class__(low=0.0, high=2.0))
    with pytest.raises((UserError, RuntimeError)):
        repair(out, TinyParts(other), LocalEngine(1))


def test_scores_of_another_predictor(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    shutil.copytree(undisturbed, out)
    digest = open_fakes(out).digest
    again = partial(make_predictor, 3)
    assert score(out, again, class_error, "q" * 64, LocalEngine(1)) == "q" * 64
    fakes = open_fakes(out)
    assert fakes.digest == digest
    assert fakes.score_sets() == ["p" * 64, "q" * 64]
    # The same predictor under another name: what `score` writes is what the sampler wrote.
    assert np.array_equal(fakes.scores("p").error, fakes.scores("q").error)
    assert fakes.scores().digest == "p" * 64
    assert verify_fakes(out) == []
    before = file_bytes(out)
    score(out, partial(make_predictor, 3, 9), class_error, "r" * 64, LocalEngine(1))
    assert not np.array_equal(open_fakes(out).scores("r").error, open_fakes(out).scores("p").error)
    assert before.items() <= file_bytes(out).items()
    lost = next((out / "scores" / ("r" * 64)).glob("*.h5"))
    lost.unlink()
    with pytest.raises(UserError, match=lost.name):
        open_fakes(out).scores("r")
    score(out, partial(make_predictor, 3, 9), class_error, "r" * 64, LocalEngine(1))
    assert verify_fakes(out) == []

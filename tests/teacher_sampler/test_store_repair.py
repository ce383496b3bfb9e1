"""`repair` replaces a file only by the one that the manifest lists; the end of a run looks at each unit once."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from image_data.fake import open_fakes, verify_fakes
from image_data.fake.sealed import SHARD_LAYOUT, locate
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling import sampler
from teacher_sampler.sampling.finish import remove_surplus
from teacher_sampler.sampling.plan import SamplingParts, Unit
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.upkeep import repair as repairing
from teacher_sampler.upkeep.repair import repair
from tests.support.store_runs import flip, run, same
from tests.support.tiny_sampling import (
    ANGLES,
    CLASSES,
    TinyParts,
    angle_plan,
    angle_settings,
    file_bytes,
    save_tiny_teacher,
)

FEW = 20  # fakes of each label


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole", fakes=FEW).path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "o"))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_comes_out_otherwise_leaves_the_damaged_file(
    workers: int, teacher: Path, whole: Path, copy: Path, tmp_path: Path
) -> None:
    """On another machine, which here is another teacher: the good rows of bad shards stay readable, and what comes out
    right is mended all the same."""
    shards, scores = sorted((copy / "shards").glob("*.h5")), sorted((copy / "scores").rglob("*.h5"))
    pilot = sorted((copy / "pilot").glob("*.h5"))[1]
    for path in shards[:2]:
        flip(path, locate(path, SHARD_LAYOUT)["fake_images"].offset + 10 * 16 * 16)  # the tenth row is bad
    flip(pilot, 900)
    scores[2].unlink()
    before = file_bytes(copy)
    other = save_tiny_teacher(tmp_path / "other", CLASSES, width=5)
    engine = LocalEngine(workers)
    message = rf"{pilot} comes out otherwise than the manifest says \(3 such files are left as they were\)"
    with pytest.raises(UserError, match=message):
        repair(copy, TinyParts(other), engine)
    engine.close()
    assert before.items() <= file_bytes(copy).items()
    assert scores[2].exists()  # made from its shard, which is whole: no teacher was asked
    assert not list(copy.glob(".repair*"))
    rows = np.arange(10)
    assert np.array_equal(open_fakes(copy).images(rows), open_fakes(whole).images(rows))
    with pytest.raises(UserError, match="row 10 does not match its checksum"):
        open_fakes(copy).images(rows + 1)
    (copy / ".repair.killed.tmp").mkdir()
    assert sorted(repair(copy, TinyParts(teacher), LocalEngine(1))) == sorted(p.name for p in (*shards[:2], pilot))
    assert same(copy, whole)
    assert verify_fakes(copy) == []
    assert not list(copy.glob(".repair*"))


@dataclass(frozen=True)
class WithoutTeacher:
    """Parts that can score and not draw."""

    parts: TinyParts

    def __call__(self) -> SamplingParts:
        found = self.parts()
        return SamplingParts(None, None, found.predictor, found.acceptance, found.error)  # type: ignore[arg-type]


def test_scores_are_made_again_from_the_shard_that_is_there(teacher: Path, whole: Path, copy: Path) -> None:
    victim = sorted((copy / "scores").rglob("*.h5"))[1]
    flip(victim, 3000)
    assert repair(copy, WithoutTeacher(TinyParts(teacher)), LocalEngine(1)) == [victim.name]
    assert same(copy, whole)


def test_a_pilot_is_that_of_the_group_in_its_name(tmp_path: Path) -> None:
    """Past 99,999 groups the names no longer sort as the numbers do."""
    asked: list[int] = []

    def worker(group: int) -> Any:
        asked.append(group)
        path = tmp_path / "fresh" / "pilot" / f"group-{group:05d}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % group)
        return SimpleNamespace(sha256=hashlib.sha256(b"%d" % group).hexdigest())

    numbers = (0, 99_999, 100_000, 100_001)
    stated = {f"group-{number:05d}.h5": hashlib.sha256(b"%d" % number).hexdigest() for number in numbers}
    mended, otherwise = repairing._repair_pilots(tmp_path, tmp_path / "fresh", stated, worker)  # type: ignore[arg-type]
    assert (tuple(asked), mended, otherwise) == (numbers, list(stated), [])
    assert (tmp_path / "pilot" / "group-100000.h5").read_bytes() == b"100000"
    with pytest.raises(UserError, match="no name of a pilot"):
        repairing._repair_pilots(tmp_path, tmp_path, {"../run.json": ""}, worker)  # type: ignore[arg-type]


def test_surplus_units_go_by_name_where_the_listing_is_late(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network disk: what another node has just written is there and not listed."""
    content, _ = load_run(copy)
    names = {entry.name for entry in open_fakes(copy).manifest.shards}
    surplus = "unit-00001-00007.h5"
    for place in (copy / "shards", copy / "scores" / ("p" * 64)):
        (place / surplus).write_bytes(b"")
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    remove_surplus(copy, content, names, names | {surplus})
    monkeypatch.undo()
    assert verify_fakes(copy) == []


class Counted(dict[Unit, Any]):
    """How often all units were gone through."""

    passes = 0

    def __iter__(self) -> Any:
        Counted.passes += 1
        return super().__iter__()


def test_the_end_of_a_run_goes_through_the_units_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once for each label group, which a run of a thousand classes would feel."""
    finish = sampler.finish_dataset

    def counting(folder: Path, content: Any, per_label: int, pilot: Any, results: Any, provenance: Any) -> None:
        Counted.passes = 0
        finish(folder, content, per_label, pilot, Counted(results), provenance)

    monkeypatch.setattr(sampler, "finish_dataset", counting)
    angles = save_tiny_teacher(tmp_path / "angles", ANGLES)
    settings = angle_settings(group_size=1)
    made = sampler.sample(TinyParts(angles), angle_plan(2), settings, tmp_path / "o", LocalEngine(1))
    assert len({entry.group for entry in made.manifest.shards}) == 7
    assert 1 <= Counted.passes <= 2
    assert verify_fakes(made.path) == []

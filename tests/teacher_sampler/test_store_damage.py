"""Flipped bytes, torn writes, lost shards: `verify` finds each, `repair` makes the bad files again, readers refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from image_data.fake import describe_fakes, export_h5, open_fakes, verify_fakes
from image_data.fake.sealed import SHARD_LAYOUT, locate
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.upkeep.repair import repair
from teacher_sampler.upkeep.scoring import score
from tests.support.store_runs import flip, run, same
from tests.support.tiny_sampling import CLASSES, TinyParts, class_error, file_bytes, make_predictor, save_tiny_teacher

FLIPS = 200
FEW = 8  # fakes of each label: a dataset of few files


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(teacher, tmp_path_factory.mktemp("fakes") / "whole").path


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed, tmp_path / "o")
    return tmp_path / "o"


def committed(folder: Path) -> list[Path]:
    """Every file of the dataset; locks are none."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock"))


def test_random_flips_of_single_bytes_are_all_found(teacher: Path, tmp_path: Path) -> None:
    """Any bits of any byte of any file: shards, scores, pilots, manifest, run.json."""
    copy = run(teacher, tmp_path, fakes=FEW).path
    random, files = np.random.default_rng(4), committed(copy)
    assert {path.suffix for path in files} == {".h5", ".json"}
    hit: set[Path] = set()
    for _ in range(FLIPS):
        path = files[int(random.integers(len(files)))]
        position, bits = int(random.integers(path.stat().st_size)), int(random.integers(1, 256))
        flip(path, position, bits)
        problems = verify_fakes(copy)
        assert any(path.name in problem for problem in problems), f"{path.name} at {position} by {bits}"
        flip(path, position, bits)
        hit.add(path)
    assert hit == set(files)
    assert verify_fakes(copy) == []


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lost_pages(path: Path) -> None:
    """The length is there, and the second half of what was written never reached the disk."""
    data = path.read_bytes()
    kept = len(data.rstrip(b"\0")) // 2
    path.write_bytes(data[:kept] + bytes(len(data) - kept))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def test_verify_says_which_images_of_a_shard_are_damaged(copy: Path) -> None:
    path = sorted((copy / "shards").glob("*.h5"))[1]
    places = locate(path, SHARD_LAYOUT)
    place, labels = places["fake_images"], places["fake_labels"].offset
    row_bytes = int(np.prod(place.shape[1:]))
    flip(path, place.offset + 3 * row_bytes + 5, 1)
    flip(path, place.offset + 5 * row_bytes, 64)
    wrong = f"{path} does not match its SHA-256 in the manifest."
    assert verify_fakes(copy) == [f"{wrong} Of its images 2 are damaged, e.g. row 3."]
    flip(path, place.offset + 3 * row_bytes + 5, 1)
    flip(path, place.offset + 5 * row_bytes, 64)
    assert verify_fakes(copy) == []
    flip(path, labels, 1)
    assert verify_fakes(copy) == [f"{wrong} Its images are whole."]


@pytest.mark.parametrize("tear", [half, lost_pages, emptied])
def test_a_torn_write_is_found_and_costs_its_own_file_only(
    tear: Callable[[Path], None], teacher: Path, tmp_path: Path
) -> None:
    """As a disk leaves it that does not keep what fsync promised, in a finished dataset and in an unfinished one."""
    undisturbed, copy = run(teacher, tmp_path / "whole", fakes=FEW).path, tmp_path / "o"
    shutil.copytree(undisturbed, copy)
    for path in committed(copy):
        tear(path)
        assert any(path.name in problem for problem in verify_fakes(copy))
        if path.name == "manifest.json":
            with pytest.raises(UserError, match=r"manifest\.json .* remove it and run the same `sample` command"):
                run(teacher, copy, fakes=FEW)
            path.unlink()
            run(teacher, copy, fakes=FEW)
        else:
            made = repair(copy, TinyParts(teacher), LocalEngine(1))
            assert made == [path.name]
        assert same(copy, undisturbed)
        assert verify_fakes(copy) == []
    (copy / "manifest.json").unlink()
    for path in committed(copy):
        others = {name: data for name, data in file_bytes(copy).items() if name != str(path.relative_to(copy))}
        tear(path)
        if path.name == "run.json":
            with pytest.raises(UserError, match=r"run\.json is damaged"):
                run(teacher, copy, fakes=FEW)
            path.unlink()
        run(teacher, copy, fakes=FEW)
        assert others.items() <= file_bytes(copy).items()
        assert same(copy, undisturbed)
        (copy / "manifest.json").unlink()


def test_a_lost_run_file_is_not_replaced_by_that_of_other_settings(teacher: Path, copy: Path) -> None:
    from teacher_sampler.sampling.sampler import sample
    from tests.support.tiny_sampling import class_plan, tiny_settings

    (copy / "run.json").unlink()
    with pytest.raises(UserError, match="repair"):
        run(teacher, copy)
    (copy / "manifest.json").unlink()
    before = file_bytes(copy)
    with pytest.raises(UserError, match="other settings"):
        sample(TinyParts(teacher), class_plan(), tiny_settings(seed=12), copy, LocalEngine(1))
    assert file_bytes(copy) == before
    assert not (copy / "run.json").exists()


def test_repair_makes_the_bad_units_only(teacher: Path, undisturbed: Path, copy: Path) -> None:
    """Whole files keep their times; made are exactly the damaged ones, of every kind at once."""
    shards, scores = sorted((copy / "shards").glob("*.h5")), sorted((copy / "scores").rglob("*.h5"))
    pilot = sorted((copy / "pilot").glob("*.h5"))[1]
    flip(shards[0], 3000)
    half(shards[1])
    shards[2].unlink()
    lost_pages(scores[3])
    flip(pilot, 900)
    flip(copy / "run.json", 40)
    bad = {shards[0], shards[1], shards[2], scores[3], pilot, copy / "run.json"}
    times = {path: path.stat().st_mtime_ns for path in committed(copy) if path not in bad}
    made = repair(copy, TinyParts(teacher), LocalEngine(1))
    assert sorted(made) == sorted(path.name for path in bad)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert same(copy, undisturbed)
    assert verify_fakes(copy) == []
    assert repair(copy, TinyParts(teacher), LocalEngine(1)) == []


@pytest.mark.parametrize("harm", ["deleted", "shortened", "shortened by a page", "lost pages"])
def test_a_lost_shard_is_an_error_in_every_reader_and_never_zeros(harm: str, copy: Path, tmp_path: Path) -> None:
    path = sorted((copy / "shards").glob("*.h5"))[-1]
    data = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    elif harm == "lost pages":
        lost_pages(path)
    else:
        path.write_bytes(data[: len(data) // 2 if harm == "shortened" else -4096])
    fakes = open_fakes(copy)
    all_rows = np.arange(len(fakes))
    scoring = partial(score, copy, partial(make_predictor, 3, 9), class_error, "q" * 64, LocalEngine(1))
    readers: dict[str, Callable[[], object]] = {
        "images": lambda: fakes.images(all_rows),
        "latents": lambda: fakes.latents(all_rows),
        "ledger": lambda: list(open_fakes(copy).ledger()),
        "view": lambda: open_fakes(copy).view()[len(fakes) - 1],
        "loader": lambda: list(DataLoader(open_fakes(copy).view(), batch_size=32)),
        "export": lambda: export_h5(copy, tmp_path / "e.h5"),
        "score": scoring,
        "inspect": lambda: describe_fakes(copy),
    }
    if harm == "deleted":
        readers["forked loader"] = lambda: list(DataLoader(open_fakes(copy).view(), 32, num_workers=1))
    for name, reader in readers.items():
        print(f"reading by {name}")  # shown where the reader gives an answer
        with pytest.raises(UserError, match=path.name):
            reader()
    assert not (tmp_path / "e.h5").exists()
    assert "q" * 64 not in json.loads((copy / "manifest.json").read_text())["scores"]
    assert any(path.name in problem for problem in verify_fakes(copy))

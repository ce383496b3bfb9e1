"""Damage is found: flipped bytes, missing and short files, strangers, hostile files, a changed manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from image_data.fake import export_h5, open_fakes, verify_fakes
from image_data.fake.sealed import SCORE_LAYOUT, SHARD_LAYOUT, array_crc32, locate
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from tests.support.tiny_sampling import CLASSES, TinyParts, class_plan, save_tiny_teacher, tiny_settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fakes")
    teacher = save_tiny_teacher(folder / "teacher", CLASSES)
    sample(TinyParts(teacher), class_plan(10), tiny_settings(), folder / "out", LocalEngine(1))
    return folder / "out"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "o")
    return tmp_path / "o"


def first_shard(folder: Path) -> Path:
    return folder / "shards" / open_fakes(folder).manifest.shards[0].name


def first_scores(folder: Path) -> Path:
    return folder / "scores" / ("p" * 64) / first_shard(folder).name


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*SHARD_LAYOUT, *SCORE_LAYOUT])
def test_a_flipped_byte_in_any_dataset_is_found(copy: Path, name: str) -> None:
    path, layout = (first_shard(copy), SHARD_LAYOUT) if name in SHARD_LAYOUT else (first_scores(copy), SCORE_LAYOUT)
    place = locate(path, layout)[name]
    size = int(np.prod(place.shape)) * place.dtype.itemsize
    for position in np.random.default_rng(0).integers(size, size=3):
        flip(path, place.offset + int(position))
        problems = verify_fakes(copy)
        assert any(path.name in problem for problem in problems)
        flip(path, place.offset + int(position))
    assert verify_fakes(copy) == []


def test_a_flipped_byte_anywhere_is_found(copy: Path) -> None:
    """Headers, padding, pilots and the manifest too."""
    random = np.random.default_rng(1)
    paths = [first_shard(copy), first_scores(copy), next((copy / "pilot").glob("*.h5")), copy / "manifest.json"]
    for path in paths:
        for position in random.integers(path.stat().st_size, size=3):
            flip(path, int(position))
            assert verify_fakes(copy), f"{path.name} at {position}"
            flip(path, int(position))


@pytest.mark.parametrize(
    "name", ["fake_images", "row_crc32", "fake_labels", "sample_index", "density_ratio", "latents"]
)
def test_readers_refuse_flipped_bytes(copy: Path, name: str) -> None:
    path = first_shard(copy)
    flip(path, locate(path, SHARD_LAYOUT)[name].offset)
    fakes = open_fakes(copy)
    rows = np.arange(len(fakes))
    with pytest.raises(UserError, match=path.name):
        _ = (fakes.images(rows), fakes.sample_index, fakes.density_ratio, fakes.latents(rows), list(fakes.ledger()))
    assert np.array_equal(fakes.labels, np.repeat([0, 1, 2], 10))  # the manifest tells them


@pytest.mark.parametrize("name", ["output", "error"])
def test_readers_refuse_flipped_scores(copy: Path, name: str) -> None:
    path = first_scores(copy)
    flip(path, locate(path, SCORE_LAYOUT)[name].offset)
    with pytest.raises(UserError, match=path.name):
        open_fakes(copy).scores()


@pytest.mark.parametrize("harm", ["missing", "empty", "short", "header only"])
def test_every_reader_names_a_missing_or_short_shard(copy: Path, harm: str, tmp_path: Path) -> None:
    path = first_shard(copy)
    data = path.read_bytes()
    kept = {"empty": 0, "short": len(data) - 40, "header only": 600}
    path.unlink() if harm == "missing" else path.write_bytes(data[: kept[harm]])
    fakes = open_fakes(copy)
    rows = np.array([0])
    readers = (
        lambda: fakes.images(rows),
        lambda: fakes.latents(rows),
        lambda: fakes.sample_index,
        lambda: fakes.density_ratio,
        lambda: fakes.view()[0],
        lambda: list(fakes.ledger()),
        lambda: export_h5(copy, tmp_path / "e.h5"),
    )
    for reader in readers:
        with pytest.raises(UserError, match=path.name):
            reader()
    assert not (tmp_path / "e.h5").exists()
    assert any(path.name in problem for problem in verify_fakes(copy))


def test_a_missing_score_file_is_named(copy: Path) -> None:
    path = first_scores(copy)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        open_fakes(copy).scores()
    assert any(path.name in problem for problem in verify_fakes(copy))


def test_strangers_are_found(copy: Path) -> None:
    shutil.copy(first_shard(copy), copy / "shards" / "unit-09999-00000.h5")
    assert ["unit-09999-00000.h5" in problem for problem in verify_fakes(copy)] == [True]


def test_hostile_shards_are_refused(copy: Path, tmp_path: Path) -> None:
    """A shard whose images come from another file is refused, whatever lies there."""
    path = first_shard(copy)
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in locate(path, SHARD_LAYOUT)}
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(arrays["fake_images"].size))
    path.unlink()
    with h5py.File(path, "w") as file:
        shape = arrays.pop("fake_images").shape
        external = [(str(secret), 0, secret.stat().st_size)]
        file.create_dataset("fake_images", shape=shape, dtype=np.uint8, external=external)
        for name, array in arrays.items():
            file.create_dataset(name, data=array).attrs["crc32"] = np.uint32(array_crc32(array))
    with pytest.raises(UserError, match="another file"):
        open_fakes(copy).images(np.array([0]))
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("fake_images", data=np.zeros(shape, dtype=np.uint8), chunks=True)
        for name, array in arrays.items():
            file.create_dataset(name, data=array).attrs["crc32"] = 0
    with pytest.raises(UserError, match="layout"):
        open_fakes(copy).images(np.array([0]))


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    text = path.read_text()
    found = json.loads(text)
    for change in (
        {"format_version": 9},
        {"content": {**found["content"], "per_label": 11}},
        {"digest": "0" * 64},
        {"scores": {}},
        {"provenance": {"x": 1}},
    ):
        path.write_text(json.dumps({**found, **change}))
        with pytest.raises(UserError, match=r"manifest\.json"):
            open_fakes(copy)
    for damaged in ("", "{", "[]", "null", text.replace("\n", "\t", 1), text[:-5]):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"manifest\.json"):
            open_fakes(copy)
        assert len(verify_fakes(copy)) == 1


def test_names_that_lead_out_of_the_folder_are_refused(copy: Path) -> None:
    from image_data.fake.manifest import ScoreEntry, write_manifest

    manifest = open_fakes(copy).manifest
    content = json.loads(json.dumps(manifest.content))
    content["shards"][0]["name"] = "../../secret.h5"
    write_manifest(copy, content, manifest.scores, manifest.provenance)
    with pytest.raises(UserError, match="no manifest"):
        open_fakes(copy)
    write_manifest(copy, manifest.content, {"../x": [ScoreEntry("a.h5", "0")]}, manifest.provenance)
    with pytest.raises(UserError, match="no manifest"):
        open_fakes(copy)

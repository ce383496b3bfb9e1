"""Exports read back by the libraries that they are for: torchvision, webdataset, datasets; whole or not at all."""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from image_data.fake import EXPORT_FORMATS, FakeDataset, Selection, export_fakes
from image_data.fake.exports import export_format, export_rows, rows
from image_data.fake.exports.imagefolder import class_folders
from image_data.real import load_real
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
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

FOLDERS = [name for name in EXPORT_FORMATS if not EXPORT_FORMATS.get(name)().suffix]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("classes")
    teacher = save_tiny_teacher(folder / "teacher", CLASSES)
    return sample(TinyParts(teacher), class_plan(8), tiny_settings(), folder / "out", LocalEngine(1))


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("angles")
    teacher = save_tiny_teacher(folder / "teacher", ANGLES)
    return sample(TinyParts(teacher), angle_plan(2), angle_settings(), folder / "out", LocalEngine(1))


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 images of 1 x 16 x 16, files of 8."""
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 4 * 256)
    monkeypatch.setattr(rows, "_SHARD_BYTES", 8 * 256)


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`datasets`, which asks no hub and keeps what it makes in the test's folder."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}.items():
        monkeypatch.setenv(name, value)
    import datasets

    datasets.disable_progress_bars()
    return datasets


def read_by_imagefolder(place: Path, datasets: Any, cache: Path) -> list[tuple[int, np.ndarray, Any]]:
    found = datasets.load_dataset("imagefolder", data_dir=str(place), split="train", cache_dir=str(cache))
    return [(item["row"], np.asarray(item["image"])[None], item["label"]) for item in found]


def read_by_parquet(place: Path, datasets: Any, cache: Path) -> list[tuple[int, np.ndarray, Any]]:
    found = datasets.load_dataset(str(place), split="train", cache_dir=str(cache))
    if "names" in vars(found.features["label"]):
        assert found.features["label"].names == list(CLASSES.names)
    return [(item["row"], np.asarray(item["image"])[None], item["label"]) for item in found]


def read_by_webdataset(place: Path, datasets: Any, cache: Path) -> list[tuple[int, np.ndarray, Any]]:
    import webdataset

    files = [str(path) for path in sorted(place.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the closing of files to the garbage collector
        samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("l8"))
        gc.collect()
    assert all(one.get("cls", one["json"]["label"]) == one["json"]["label"] for one in samples)
    return [(one["json"]["row"], one["png"][None], one["json"]["label"]) for one in samples]


READERS = {"imagefolder": read_by_imagefolder, "parquet": read_by_parquet, "webdataset": read_by_webdataset}


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("to", FOLDERS)
@pytest.mark.parametrize("kind", ["classes", "angles"])
def test_its_library_reads_back_every_image_and_label(
    to: str, kind: str, request: pytest.FixtureRequest, hugging_face: Any, tmp_path: Path
) -> None:
    fakes: FakeDataset = request.getfixturevalue(kind)
    out = tmp_path / "e"
    export_fakes(fakes, out, to, licence="CC0", seed=5)
    found = READERS[to](out, hugging_face, tmp_path / "cache")
    order = [row for row, _, _ in found]
    assert sorted(order) == list(range(len(fakes)))
    assert (order == sorted(order)) != export_format(to).shuffled
    assert np.array_equal(np.stack([image for _, image, _ in found]), fakes.images(np.array(order)))
    assert np.array_equal([label for _, _, label in found], fakes.labels[order])
    readme = (out / "README.md").read_text()
    assert "| licence | CC0 |" in readme
    assert fakes.digest in readme
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] in ".e") == ["e"]
    with pytest.raises(UserError, match="exists"):
        export_fakes(fakes, out, to)


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_the_disk_that_it_needs_is_known_before(to: str, classes: FakeDataset, tmp_path: Path) -> None:
    form = export_format(to)
    needed = form.bytes_needed(export_rows(classes, form))
    out = export_fakes(classes, tmp_path / "e", form)
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    page = 4096 if to == "imagefolder" else 1
    assert 0.6 < needed / sum(-(-path.stat().st_size // page) * page for path in files) < 1.3


def test_rows_are_cut_into_files_and_drawn_by_the_seed(classes: FakeDataset, small_files: None, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        export_fakes(classes, tmp_path / name, "webdataset", seed=seed)
    one, again, other = (sorted((tmp_path / name).glob("*.tar")) for name in ("one", "again", "other"))
    assert [path.name for path in one] == [f"fakes-{number:06d}.tar" for number in range(3)]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in again]
    assert [path.read_bytes() for path in one] != [path.read_bytes() for path in other]
    export_fakes(classes, tmp_path / "p", "parquet")
    files = sorted(path.name for path in (tmp_path / "p" / "data").iterdir())
    assert files == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]


def test_a_block_is_all_that_is_read_at_once(classes: FakeDataset, small_files: None, tmp_path: Path) -> None:
    for to in EXPORT_FORMATS:
        asked: list[int] = []

        class Counted(FakeDataset):
            def images(self, rows: np.ndarray) -> np.ndarray:
                asked.append(len(rows))  # noqa: B023
                return super().images(rows)

        export_fakes(Counted(classes.path), tmp_path / to, to)
        assert asked == [4] * 6


def test_image_folders_are_read_by_torchvision_and_by_this_program(
    classes: FakeDataset, angles: FakeDataset, tmp_path: Path
) -> None:
    """A selection with replaced labels; folders in the order of the classes, which is not that of their names."""
    chosen = Selection(np.array([9, 2, 17, 3]), np.array([1, 0, 2, 1]), {"relabel": True}, classes.digest)
    export_fakes(classes, tmp_path / "c", "imagefolder", chosen)
    found = torchvision.datasets.ImageFolder(str(tmp_path / "c"))
    assert found.classes == list(class_folders(CLASSES.names)) == ["0_zero", "1_one", "2_two"]
    read = [(np.asarray(image)[None, :, :, 0], label) for image, label in found]
    assert [label for _, label in read] == [0, 1, 1, 2]
    assert np.array_equal(np.stack([image for image, _ in read]), classes.images(np.array([2, 9, 3, 17])))
    assert '"asked_label"' in (tmp_path / "c" / "metadata.jsonl").read_text()
    export_fakes(classes, tmp_path / "all", "imagefolder")
    assert load_real(tmp_path / "all").label_space == CLASSES
    export_fakes(angles, tmp_path / "a", "imagefolder")
    again = load_real(tmp_path / "a")
    assert again.label_space == ANGLES
    assert set(again.train.labels.tolist()) <= set(angles.labels.tolist())


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("dog", "cat"), ("0_dog", "1_cat")),
        (("a/b", "../c", ""), ("0_a_b", "1__c", "2_")),
        (tuple(map(str, range(11))), tuple(f"{n:02d}_{n}" for n in range(11))),
        (("Ä", "ä"), ("0__", "1__")),
    ],
)
def test_class_folders_stand_in_the_order_of_the_classes(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    assert class_folders(names) == folders
    assert sorted(folders) == list(folders)


def test_a_class_without_images_is_said(classes: FakeDataset, tmp_path: Path, capsys: Any) -> None:
    rows = np.flatnonzero(classes.labels != 1)
    chosen = Selection(rows, classes.labels[rows], {}, classes.digest)
    export_fakes(classes, tmp_path / "c", "imagefolder", chosen)
    assert "1 of 3 classes have no image" in capsys.readouterr().err
    assert load_real(tmp_path / "c").label_space.to_json()["names"] == ["zero", "two"]
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(UserError, match="no row of"):
        export_fakes(classes, tmp_path / "n", "imagefolder", Selection(none, none, {}, classes.digest))


@pytest.mark.parametrize("to", ["imagefolder", "h5"])
def test_an_export_is_whole_or_not_there(to: str, classes: FakeDataset, tmp_path: Path) -> None:
    """One that is stopped leaves nothing, and what a killed one left goes with the next."""
    out = tmp_path / "e"

    class Stopped(FakeDataset):
        def images(self, rows: np.ndarray) -> np.ndarray:
            assert list(tmp_path.glob(".e.*.tmp"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_fakes(Stopped(classes.path), out, to)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".e.killed.tmp" / "0").mkdir(parents=True)
    export_fakes(classes, out, to)
    assert list(tmp_path.iterdir()) == [out]


def test_an_export_takes_no_name_that_came_meanwhile(classes: FakeDataset, tmp_path: Path) -> None:
    out = tmp_path / "e"

    class Meanwhile(FakeDataset):
        def images(self, rows: np.ndarray) -> np.ndarray:
            out.mkdir(exist_ok=True)
            (out / "notes.txt").write_text("of another program")
            with pytest.raises(UserError, match="exists"):
                export_fakes(classes.path, out, "imagefolder")
            return super().images(rows)

    with pytest.raises(UserError, match="exists; remove it or export to another folder"):
        export_fakes(Meanwhile(classes.path), out, "imagefolder")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_missing_package_and_an_unknown_format_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^--to parquet needs the package pyarrow; install it \(pip install '"):
        export_format("parquet")
    with pytest.raises(UserError, match="known are h5, imagefolder, parquet, webdataset"):
        export_format("zip")

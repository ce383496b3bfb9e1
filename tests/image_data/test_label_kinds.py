"""Classes or values: what the numbers, texts and rows of a label dataset are taken for, and that it is said."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from image_data.real import load_real
from image_data.real.whole import LabelWishes, open_whole
from runtime.errors import UserError

THREE = np.arange(60) % 3
TEXT = h5py.string_dtype()


@pytest.fixture(autouse=True)
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_PROGRESS", "lines")


def pixels(count: int = 60, channels: int = 3, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def write(path: Path, labels: object, about: dict | None = None, **more: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in {"images": pixels(), "labels": labels, **more}.items():
            file.create_dataset(name, data=value)
    if about is not None:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (THREE + 1, ("1", "2", "3"), "whole numbers from 1 to 3 (3 different): taken as classes 1, 2, 3; for values"),
        (np.array([0, 3, 7])[THREE], ("0", "3", "7"), "taken as classes 0, 3, 7"),
        (THREE - 1, ("-1", "0", "1"), "taken as classes -1, 0, 1"),
        (np.eye(3, dtype=np.int64)[THREE], ("0", "1", "2"), "rows with a single 1 (60 x 3): taken as classes 0, 1, 2"),
        (np.eye(3, dtype=np.float32)[THREE], ("0", "1", "2"), "rows with a single 1"),
        (THREE.astype(np.uint8)[:, None] + 250, ("250", "251", "252"), "from 250 to 252"),
        (THREE == 1, ("0", "1"), "taken as classes 0, 1"),
        (THREE.astype(float), ("0", "1", "2"), "whole numbers from 0 to 2 (3 different), stored as floats"),
        (np.array(["dog", "cat", "eel"], dtype=TEXT)[THREE], ("cat", "dog", "eel"), "texts (3 different)"),
        (np.array([b"10", b"9", b"2"])[THREE], ("2", "9", "10"), "taken as classes 2, 9, 10"),
        (np.arange(60) // 2 + 1, tuple(map(str, range(1, 31))), "taken as classes 1, 2, 3, 4, 5, ..., 30"),
    ],
)  # fmt: skip
def test_few_whole_numbers_texts_and_single_ones_are_classes(
    labels: np.ndarray, names: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path / "a.h5", labels)
    source = open_whole(path)
    assert source.label_space.names == names
    said = capsys.readouterr().err
    assert words in said
    assert ('write {"label_kind": "continuous"} into ' + str(tmp_path / "a.json") in said) == ("texts (" not in said)
    if len(names) < 30:  # else two images of each are too few to split
        data = load_real(path)
        assert data.label_space == source.label_space
        assert words in capsys.readouterr().err
        stored = {image.tobytes(): label for image, label in zip(pixels(), source.labels, strict=True)}
        assert all(
            stored[image.tobytes()] == label for image, label in zip(data.train.pixels, data.train.labels, strict=True)
        )


@pytest.mark.parametrize(
    ("labels", "low", "high", "words"),
    [
        (np.linspace(0.5, 9, 60), 0.5, 9, "numbers from 0.5 to 9: taken as values"),
        (THREE + 1.0, 1, 3, "stored as floats: taken as values from 1 to 3; for classes write"),
        (np.arange(60) + 3, 3, 62, "whole numbers from 3 to 62 (60 different): taken as values"),
        (np.arange(60) // 2 * 1000 + np.arange(60) % 2, 0, 29001, "(60 different): taken as values"),
        (np.stack([THREE, THREE], axis=1), 0, 2, "rows of 2 numbers: taken as vectors of 2 values"),
    ],
)
def test_floats_many_numbers_and_rows_are_values(
    labels: np.ndarray, low: float, high: float, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    space = load_real(write(tmp_path / "a.h5", labels)).label_space
    assert (space.kind, space.low, space.high) == ("continuous", low, high)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "about", "found"),
    [
        (THREE + 1, {"label_kind": "continuous", "unit": "years"}, (1.0, 3.0, "years")),
        (THREE + 1, {"low": 0, "high": 9}, (0.0, 9.0, "")),
        (THREE + 1.0, {"label_kind": "classes"}, ("1", "2", "3")),
        (np.eye(3)[THREE], {"label_kind": "classes"}, ("0", "1", "2")),
        (np.eye(3)[THREE], {"label_kind": "continuous"}, (0.0, 1.0, "")),
        (THREE + 1.0, {"class_names": ["a", "b", "c"]}, ("a", "b", "c")),
        (np.array([0, 3, 7])[THREE], {"class_names": ["a", "b", "c"]}, ("a", "b", "c")),
        (THREE, {"class_names": ["2", "1", "0"]}, ("2", "1", "0")),
        (np.zeros(60, dtype=int), None, ("all",)),
        (np.full(60, 7), None, ("7",)),
        (np.zeros(60, dtype=int), {"class_names": ["face"]}, ("face",)),
    ],
)
def test_what_is_stated_goes_first(labels: np.ndarray, about: dict | None, found: tuple, tmp_path: Path) -> None:
    data = load_real(write(tmp_path / "a.h5", labels, about))
    space = data.label_space
    assert found == (space.names if space.kind == "classes" else (space.low, space.high, space.unit))
    if about == {"class_names": ["2", "1", "0"]}:  # the names of the classes in another order: each keeps its images
        where = {image.tobytes(): label for image, label in zip(pixels(), labels, strict=True)}
        assert all(
            where[i.tobytes()] == 2 - label for i, label in zip(data.train.pixels, data.train.labels, strict=True)
        )


def test_attributes_of_the_labels_mean_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", THREE + 1)
    with h5py.File(path, "r+") as file:
        file["labels"].attrs["unit"] = "years"
    assert load_real(path).label_space.unit == "years"
    path.with_suffix(".json").write_text('{"label_kind": "classes"}')
    assert load_real(path).label_space.names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("labels", "about", "words"),
    [
        (THREE, {"class_names": ["a", "b"]}, "gives 2 names, but there are 3 classes (0, 1, 2)"),
        (THREE, {"class_names": ["1", "0", "x"]}, "uses '1', which is the name of one of the classes"),
        (THREE, {"class_names": ["a", "b", "c"], "unit": "m"}, "unit is for values, but class_names says that"),
        (THREE, {"label_kind": "classes", "low": 0}, "low is for values, but label_kind says that labels are classes"),
        (THREE, {"label_kind": "continuous", "class_names": ["a", "b", "c"]}, "class_names is for classes"),
        (np.linspace(0, 1, 60), {"label_kind": "classes"}, "class labels must be whole numbers or names"),
        (np.array([b"a", b"b"])[THREE % 2], {"label_kind": "continuous"}, "are texts, and values must be numbers"),
        (np.array([b"a", b""])[THREE % 2], None, "a label is empty"),
        (np.array([b"a", b"x" * 2000])[THREE % 2], None, "holds a text of 2000 bytes"),
        (np.array([b"a", b"\xff"])[THREE % 2], None, "cannot be read"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(labels: np.ndarray, about: dict | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_real(write(tmp_path / "a.h5", labels, about))
    assert words in str(caught.value)


def test_options_of_the_import_go_before_the_description(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", THREE + 1, {"unit": "years", "low": 0, "high": 9})
    assert open_whole(path, wishes=LabelWishes(class_names=("a", "b", "c"))).label_space.names == ("a", "b", "c")
    assert open_whole(path, wishes=LabelWishes(range=(-1, 5))).label_space.low == -1
    path.with_suffix(".json").write_text('{"class_names": ["a", "b", "c"]}')
    assert open_whole(path, wishes=LabelWishes(range=(-1, 5))).label_space.high == 5


def test_rare_numbers_name_the_key_that_makes_them_values(tmp_path: Path) -> None:
    ages = np.r_[np.repeat(np.arange(1, 11), 5), np.arange(11, 21)]
    with pytest.raises(UserError, match=r"has [01] training images; .* or state .\"label_kind\": \"continuous\""):
        load_real(write(tmp_path / "a.h5", ages))

"""Splits that an HDF5 file holds, parts and groups by their names, and what is said of all that is not used."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from image_data.real import RealData, load_real
from image_data.real.hdf5_split import role_in
from image_data.real.whole import open_whole
from runtime.errors import UserError
from tests.image_data.test_label_kinds import pixels, spoken  # noqa: F401

COUNT = 60
MASK = np.arange(COUNT) < 40


def write(path: Path, **datasets: object) -> Path:
    stored = {"images": pixels(COUNT), "labels": np.arange(COUNT) % 3, **datasets}
    with h5py.File(path, "w") as file:
        for name, value in stored.items():
            if value is not None:
                file[name.replace("__", "/")] = value
    return path


def rows(data: RealData, role: str) -> list[int]:
    where = {image.tobytes(): row for row, image in enumerate(pixels(COUNT))}
    source = {"train": data.train, "val": data.val, "test": data.open_test()}[role]
    return sorted(where[image.tobytes()] for image in source.pixels)


@pytest.mark.parametrize(
    ("datasets", "known"),
    [
        ({"indx_train": np.arange(20)}, {"train+val": (0, 20), "test": (20, 60)}),
        ({"train_idx": np.arange(30), "test_idx": np.arange(30, 60)}, {"train+val": (0, 30), "test": (30, 60)}),
        ({"trainIndices": np.arange(30.0), "validIndices": np.arange(30.0, 40)},
         {"train": (0, 30), "val": (30, 40), "test": (40, 60)}),
        ({"test_mask": ~MASK}, {"train+val": (0, 40), "test": (40, 60)}),
        ({"train_mask": MASK.astype(np.uint8)}, {"train+val": (0, 40), "test": (40, 60)}),
        ({"is_train": MASK}, {"train+val": (0, 40), "test": (40, 60)}),
        ({"train": np.arange(30), "valid": np.arange(30, 40), "test": np.arange(40, 60)},
         {"train": (0, 30), "val": (30, 40), "test": (40, 60)}),
        ({"indx_train": np.arange(40), "indx_subtrain": np.arange(30), "indx_subvalid": np.arange(30, 40)},
         {"train": (0, 30), "val": (30, 40), "test": (40, 60)}),
        ({"split": np.repeat([b"train", b"val", b"test"], 20)}, {"train": (0, 20), "val": (20, 40), "test": (40, 60)}),
        ({"partition": np.repeat([0, 0, 1, 2], 15)}, {"train": (0, 30), "val": (30, 45), "test": (45, 60)}),
        ({"split": 1 - MASK.astype(int)}, {"train+val": (0, 40), "test": (40, 60)}),
    ],
)  # fmt: skip
def test_a_split_in_the_file_is_used(
    datasets: dict[str, np.ndarray], known: dict[str, tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load_real(write(tmp_path / "a.h5", **datasets))
    for roles, (low, high) in known.items():
        assert sorted(row for role in roles.split("+") for row in rows(data, role)) == list(range(low, high))
    assert "taken as the split of 60 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"train_idx": np.arange(31), "test_idx": np.arange(30, 60)}, "an image is in two parts of the split"),
        ({"train_idx": np.arange(1, 61)}, "runs from 1 to 60, but there are 60 images; it seems to count from 1"),
        ({"indx_train": np.arange(-1, 20)}, "indx_train runs from -1 to 19"),
        ({"indx_train": np.array([1, 1, 2])}, "lists a row twice"),
        ({"indx_train": np.array([0.5, 1])}, "must be a list of row numbers"),
        ({"test_idx": np.arange(0)}, "test_idx lists no images"),
        ({"test_idx": np.arange(60)}, "leave no image for training"),
        ({"train_mask": MASK[:50]}, "is a mask of 50 rows, but there are 60 images"),
        ({"train_idx": np.arange(10), "indx_train": np.arange(20)}, "give two lists for the same part"),
    ],
)  # fmt: skip
def test_a_split_that_contradicts_itself_is_refused(
    datasets: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        load_real(write(tmp_path / "a.h5", **datasets))
    assert words in str(caught.value)
    assert "a.h5" in str(caught.value)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"types": np.zeros(60), "fold": np.arange(60) % 5}, "not used: fold (looks like a split), types"),
        ({"split": MASK.astype(int) * 3}, "split (looks like a split)"),
        ({"split": MASK.astype(int)}, "split (looks like a split)"),  # 0 may be train, but most rows are 1
        ({"names": np.array([b"a"] * 60), "extra__images": pixels(9)}, "not used: names, extra/images"),
        ({"images_extra": pixels(9)}, "not used: images_extra"),
    ],
)
def test_what_is_not_used_is_named(
    datasets: dict[str, np.ndarray], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load_real(write(tmp_path / "a.h5", **datasets))
    assert len(data.train) + len(data.val) + len(data.open_test()) == COUNT
    assert words in capsys.readouterr().err


def part(low: int, high: int, prefix: str, suffix: str = "") -> dict[str, np.ndarray]:
    labels = np.arange(COUNT) % 3
    return {f"{prefix}images{suffix}": pixels(COUNT)[low:high], f"{prefix}labels{suffix}": labels[low:high]}


@pytest.mark.parametrize(
    ("datasets", "known"),
    [
        (part(0, 40, "train__") | part(40, 60, "test__"), {"train+val": (0, 40), "test": (40, 60)}),
        (part(0, 30, "", "_train") | part(30, 45, "", "_val") | part(45, 60, "", "_test"),
         {"train": (0, 30), "val": (30, 45), "test": (45, 60)}),
        (part(0, 40, "data__training__") | part(40, 60, "data__valid__"), {"train+test": (0, 40), "val": (40, 60)}),
        (part(0, 60, "group__"), {"train+val+test": (0, 60)}),
        ({"x_train": pixels(COUNT)[:40], "y_train": np.arange(40) % 3, "x_test": pixels(COUNT)[40:],
          "y_test": np.arange(40, 60) % 3}, {"train+val": (0, 40), "test": (40, 60)}),
        (part(0, 40, "", "_train") | part(40, 60, "", "_test")
         | {"indx_subtrain": np.arange(30), "indx_subvalid": np.arange(30, 40)},
         {"train": (0, 30), "val": (30, 40), "test": (40, 60)}),
        (part(0, 40, "") | part(40, 60, "", "_test"), {"train+val": (0, 40), "test": (40, 60)}),
    ],
)  # fmt: skip
def test_parts_and_groups_by_name(
    datasets: dict[str, np.ndarray], known: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    whole = {} if "images" in datasets else {"images": None, "labels": None}
    path = write(tmp_path / "a.h5", **{**whole, **datasets})
    data = load_real(path)
    for roles, (low, high) in known.items():
        assert sorted(row for role in roles.split("+") for row in rows(data, role)) == list(range(low, high))
    assert len(open_whole(path).labels) == COUNT


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({**part(0, 9, "a__"), **part(9, 20, "b__")}, "several sets of images (a/images, b/images)"),
        (part(0, 30, "", "_val") | part(30, 60, "", "_valid"), "images_val and images_valid are the same part"),
        (part(0, 30, "test__"), "holds test/images but no training images"),
        ({"deep__pictures": pixels(9)}, "it holds deep/pictures (9 x 3 x 8 x 8)"),
    ],
)
def test_unclear_files_are_listed(datasets: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_real(write(tmp_path / "a.h5", **{"images": None, "labels": None, **datasets}))
    assert words in str(caught.value)


def test_channels_last_are_read_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.h5", images=np.ascontiguousarray(pixels(COUNT).transpose(0, 2, 3, 1)))
    data = load_real(path)
    assert "60 x 8 x 8 x 3: its last axis is taken as the channels" in capsys.readouterr().err
    assert sorted(row for role in ("train", "val", "test") for row in rows(data, role)) == list(range(COUNT))
    assert np.array_equal(np.concatenate(list(open_whole(path).pieces())), pixels(COUNT))


def test_names_of_splits() -> None:
    for name, role in {
        "indx_train": "train", "trainidx": "train", "subtrain_indx": "train", "val_indices": "val", "idx/valid": "val",
        "testMask": "test", "indx_rest": "test", "train2": "train", "split": "", "labels_train": None, "values": None,
        "train_and_test": None, "interval": None, "idx": None, "types": None,
    }.items():  # fmt: skip
        assert role_in(name) == role, name

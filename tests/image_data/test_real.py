"""Datasets by name: one contract for every registry entry, and what the digits promise."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from image_data.labels import label_space_from_json
from image_data.real import REAL_DATASETS, RealData, load_real
from runtime.digests import canonical_json
from runtime.errors import UserError

CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_cifar_folder(root: Path) -> None:
    """Pictures of digits in the place and layout of the CIFAR-10 folder."""
    digits = load_real("digits", resolution_px=32, channels=3)
    for role, per_class in (("train", 20), ("test", 5)):
        for label, name in enumerate(CIFAR_NAMES):
            folder = root / "cifar10" / role / name
            folder.mkdir(parents=True)
            source = digits.train if role == "train" else digits.val
            for number, row in enumerate(np.flatnonzero(source.labels == label)[:per_class]):
                Image.fromarray(source.pixels[row].transpose(1, 2, 0)).save(folder / f"{number:04d}.png")


@pytest.mark.parametrize("name", list(REAL_DATASETS))
def test_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar_folder(tmp_path)
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    data = load_real(name)
    again = load_real(name, seed=1)
    test = data.open_test()
    assert data.digest == again.digest  # a split never depends on the run's seed
    for source in (data.train, data.val, test):
        assert source.pixels.dtype == np.uint8
        assert source.pixels.shape == (len(source), data.channels, data.resolution_px, data.resolution_px)
        assert source.labels.dtype == (np.int64 if data.label_space.kind == "classes" else np.float64)
        assert torch.equal(data.label_space.encode(source.labels), again.label_space.encode(source.labels))
        data.label_space.check(source.labels, name)
    assert set(data.allowed_augmentations) <= {"flip", "translate"}
    assert len(data.histogram().splitlines()) == 3
    assert label_space_from_json(data.describe()["label_space"]) == data.label_space
    canonical_json(data.describe())
    pixels = [
        hashlib.sha256(image.tobytes()).digest() for part in (data.train, data.val, test) for image in part.pixels
    ]
    assert len(set(pixels)) > 0.98 * len(pixels)  # roles share no image (a digit or two was scanned twice)
    with pytest.raises(UserError, match="fold 3"):
        load_real(name, fold=3)
    with pytest.raises(UserError, match="channels"):
        load_real(name, channels=2)
    with pytest.raises(UserError, match="real_per_class"):
        load_real(name, real_per_class=100_000)
    with pytest.raises(UserError, match="real_per_class"):
        load_real(name, real_per_class=0)
    assert load_real(name, resolution_px=16, channels=3).train.pixels.shape[1:] == (3, 16, 16)


def test_contract_ran_over_all() -> None:
    assert list(REAL_DATASETS) == ["cifar10", "digits", "rotated-digits"]


def folds() -> list[RealData]:
    return [load_real("digits", fold=fold) for fold in range(3)]


def image_names(pixels: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in pixels]


def test_digits_cross_fitting_covers_1491_images_and_no_role_leaks() -> None:
    from sklearn.datasets import load_digits

    available = len(np.unique(load_digits().images.reshape(1797, -1), axis=0))
    assert available == 1797  # so equal pixels mean the same image
    pooled: set[bytes] = set()
    for data in folds():
        test = data.open_test()
        parts = [image_names(part.pixels) for part in (data.train, data.val, test)]
        assert [len(part) for part in parts] == [1000, 300, 497]
        assert len(set().union(*map(set, parts))) == 1797
        assert not pooled & set(parts[2])
        pooled |= set(parts[2])
        for part in (data.train, data.val, test):
            counts = np.bincount(part.labels, minlength=10)
            shares = np.bincount(load_digits().target) * len(part) / 1797
            assert np.abs(counts - shares).max() <= 3
    assert len(pooled) == 1491


def test_digits_are_pinned() -> None:
    """The roles and pixels are part of every published number: this digest may not change."""
    assert load_real("digits").digest == "9cde629f10b4dfb2cbc8e17f772040096ca3f8a4a462194f6e5685a091aae821"
    assert load_real("rotated-digits").digest == "cc220f475d9980c0295b7fe6b306771dccdf1442f609c1fe060e135f4a0581a4"


def test_digits_against_a_slow_twin() -> None:
    """Keys' bicubic kernel (a = -0.75) written out for single pixels."""
    from sklearn.datasets import load_digits

    def kernel(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    original = np.pad(load_digits().images * (255 / 16), ((0, 0), (1, 1), (1, 1)))
    ours = {name: index for index, name in enumerate(image_names(load_real("digits").train.pixels))}
    found = 0
    for image in original[:60]:
        twin = np.zeros((16, 16))
        for row in range(16):
            for column in range(16):
                y, x = (row + 0.5) * 10 / 16 - 0.5, (column + 0.5) * 10 / 16 - 0.5
                for j in range(max(0, int(y) - 2), min(10, int(y) + 4)):
                    for i in range(max(0, int(x) - 2), min(10, int(x) + 4)):
                        twin[row, column] += kernel(y - j) * kernel(x - i) * image[j, i]
        found += np.clip(np.floor(twin + 0.5 + 1e-6), 0, 255).astype(np.uint8).tobytes() in ours
    assert 20 < found < 50  # those of the 60 that are training images (5 of 9)


def test_few_labels_are_nested_and_leave_val_and_test_alone() -> None:
    whole, few, fewer = (
        load_real("digits"),
        load_real("digits", real_per_class=10),
        load_real("digits", real_per_class=3),
    )
    assert np.bincount(few.train.labels).tolist() == [10] * 10
    assert (
        set(image_names(fewer.train.pixels)) < set(image_names(few.train.pixels)) < set(image_names(whole.train.pixels))
    )
    assert np.array_equal(few.val.pixels, whole.val.pixels)
    assert np.array_equal(few.open_test().pixels, whole.open_test().pixels)
    other = load_real("digits", real_per_class=10, seed=1)
    assert set(image_names(other.train.pixels)) != set(image_names(few.train.pixels))
    assert len({whole.digest, few.digest, fewer.digest, other.digest}) == 4


def test_opening_the_test_set_is_counted() -> None:
    data = load_real("digits")
    data.histogram()
    assert data.test_opened == 0
    data.open_test()
    data.open_test()
    assert data.describe()["test_opened"] == data.test_opened == 2
    assert load_real("digits").test_opened == 0


def test_rotated_digits_turn_anticlockwise_for_positive_angles() -> None:
    data = load_real("rotated-digits", resolution_px=32)
    assert len(data.train) == 5000
    assert data.label_space.to_json()["unit"] == "degrees"
    assert np.abs(data.train.labels).max() <= 60
    assert len(np.unique(data.train.labels)) > 3500
    # The long axis of a written digit stands upright; turned anticlockwise its top leans to the left.
    for low, high, sign in ((-60, -40, -1), (40, 60, 1)):
        rows = np.flatnonzero((data.train.labels > low) & (data.train.labels < high))
        mean = data.train.pixels[rows, 0].astype(np.float64).mean(axis=0)
        y, x = np.mgrid[0:32, 0:32] - 15.5
        assert np.sign((mean * x * y).sum()) == sign  # image rows count downwards
    few = load_real("rotated-digits", real_per_class=2)
    assert len(few.train) == 2 * 10 * 5


def test_unknown_names_and_sizes_are_refused(tmp_path: Path) -> None:
    for name, options, words in (
        ("digitz", {}, "digits, rotated-digits"),
        ("digits", {"resolution_px": 20}, "resolution_px 20"),
        ("digits", {"augmentations": ["flip"]}, "leave the option out"),
        (str(tmp_path / "photo.png"), {}, "neither"),
    ):
        with pytest.raises(UserError, match=words):
            load_real(name, **options)
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no folder, no \.zip archive and no \.h5"):
        load_real(tmp_path / "photo.png")


def test_absent_cifar10_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="--download"):
        load_real("cifar10")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="--download"):  # the wrong checksum keeps the pickle shut
        load_real("cifar10")


def test_cifar10_from_torchvisions_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small copy in the published format, with its own checksums in place of the published ones."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6000, 3072), dtype=np.uint8)
    labels = (np.arange(6000) % 10).tolist()

    def store(name: str, value: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(value))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(CIFAR10, "train_list", [store("data_batch_1", {"data": pixels, "labels": labels})])
    fresh = np.random.default_rng(1).integers(0, 256, (5, 3072), dtype=np.uint8)
    monkeypatch.setattr(
        CIFAR10,
        "test_list",
        [store("test_batch", {"data": np.concatenate([pixels[:25], fresh]), "labels": labels[:30]})],
    )
    filename, md5 = store("batches.meta", {"label_names": list(CIFAR_NAMES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    data = load_real("cifar10")
    assert data.label_space.to_json()["names"] == list(CIFAR_NAMES)
    test = data.open_test()
    assert len(data.train) + len(data.val) == 6000 - 2
    assert 500 < len(data.val) < 700  # a tenth, by the images' hashes
    assert len(test) == 7  # pictures of training images are no test images
    assert np.array_equal(test.pixels[-1].reshape(-1), fresh[-1])
    assert "23 of 30 test images are left out, because row 0 of test equals row 0 of train" in data.remarks[0]
    assert "2 of 591 val images are left out, because row 1 of train equals row 1 of test" in data.remarks[1]
    assert data.allowed_augmentations == ("flip", "translate")

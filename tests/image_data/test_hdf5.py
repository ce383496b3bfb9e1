"""HDF5 files: every cGAN-KD layout, and one real broken or hostile file for each refusal."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_data.real import load_real
from image_data.real.hdf5_layouts import LAYOUTS, recognise
from runtime.errors import UserError
from runtime.safe_files.hdf5_policy import open_trusted_layout, read_array

RNG = np.random.default_rng(0)


def pixels(count: int, channels: int = 3, side: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def write(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file.create_dataset(name, data=value)
    return path


def classes(count: int, width: int = 5, dtype: str = "int64") -> np.ndarray:
    return (np.arange(count) % width).astype(dtype)


def rc49() -> dict[str, np.ndarray]:
    odd = np.repeat(np.arange(1, 900, 90) / 10, 12)
    return {
        "images_odd": pixels(120),
        "labels_odd": odd,
        "types_odd": np.zeros(120, dtype=np.int64),
        "images_even": pixels(50),
        "labels_even": np.linspace(2.2, 80, 50),
        "types_even": np.zeros(50, dtype=np.int64),
        "indx_odd_train": np.arange(80),
        "indx_odd_subtrain": np.arange(0, 120, 2),
        "indx_odd_subvalid": np.arange(1, 60, 2),
        "indx_odd_rest": np.arange(61, 120, 2),
    }


def utkface() -> dict[str, np.ndarray]:
    parts = {"indx_subtrain": np.arange(60), "indx_subvalid": np.arange(60, 80), "indx_test": np.arange(80, 120)}
    return {"images": pixels(120), "labels": np.arange(120) % 60 + 1, "indx_train": np.arange(80), **parts}


# layout name, kind of label, images in (train, val, test), datasets
CASES: list[tuple[str, str, tuple[int | None, ...], Callable[[], dict[str, np.ndarray]]]] = [
    ("RC-49", "continuous", (60, 30, 80), rc49),
    ("UTKFace, first version", "continuous", (60, 20, 40), utkface),
    (
        "Tiny-ImageNet",
        "classes",
        (80, 20, 30),
        lambda: {
            "imgs": pixels(100),
            "labels": classes(100),
            "imgs_val": pixels(30),
            "labels_val": classes(30),
            "indx_subtrain": np.arange(80),
            "indx_subvalid": np.arange(80, 100),
        },
    ),
    (
        "CIFAR subset",
        "classes",
        (None, 20, None),
        lambda: {
            "images_train": pixels(100),
            "labels_train": classes(100, dtype="float64"),
            "subtrain_indx": np.arange(80),
            "subvalid_indx": np.arange(80, 100),
        },
    ),
    (
        "images with test part",
        "continuous",
        (None, None, 30),
        lambda: {
            "images_train": pixels(100),
            "labels_train": np.arange(100) % 50 + 1.0,
            "images_test": pixels(30),
            "labels_test": np.arange(30) + 1.0,
        },
    ),
    (
        "ImageNet-100",
        "classes",
        (None, None, 30),
        lambda: {
            "images_train": pixels(100),
            "labels_train": classes(100),
            "images_valid": pixels(30),
            "labels_valid": classes(30),
        },
    ),
    ("fakes", "classes", (None, None, None), lambda: {"fake_images": pixels(100), "fake_labels": classes(100)}),
    ("BigGAN input", "classes", (None, None, None), lambda: {"imgs": pixels(100), "labels": classes(100)}),
    (
        "images and labels",
        "continuous",
        (None, None, None),
        lambda: {"images": pixels(100, 1), "labels": np.linspace(-1, 1, 100)[:, None]},
    ),
]


@pytest.mark.parametrize(("name", "kind", "sizes", "make"), CASES, ids=[case[0] for case in CASES])
def test_layouts(
    name: str, kind: str, sizes: tuple[int | None, ...], make: Callable[[], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    stored = make()
    path = write(tmp_path / "data.h5", **stored)
    with open_trusted_layout(path) as file:
        assert recognise(file, path).name == name
    data = load_real(path)
    parts = (data.train, data.val, data.open_test())
    assert data.label_space.kind == kind
    assert all(asked in (len(part), None) for part, asked in zip(parts, sizes, strict=True))  # None: split off
    images = sum(len(values) for key, values in stored.items() if "images" in key or "imgs" in key)
    assert name in ("RC-49", "UTKFace, first version") or sum(map(len, parts)) == images
    assert data.allowed_augmentations == ()
    assert data.describe()["layout"] == name
    assert data.digest == load_real(path, seed=1).digest
    label_of = {}
    for images_name in [key for key in stored if "images" in key or "imgs" in key]:
        labels = stored[images_name.replace("images", "labels").replace("imgs", "labels")]
        label_of |= {
            image.tobytes(): float(label) for image, label in zip(stored[images_name], labels.reshape(-1), strict=True)
        }
    for part in parts:
        assert all(label_of[image.tobytes()] == label for image, label in zip(part.pixels, part.labels, strict=True))


def test_every_layout_was_tried() -> None:
    assert {case[0] for case in CASES} == {layout.name for layout in LAYOUTS}


def test_rc49_keeps_the_published_split(tmp_path: Path) -> None:
    stored = rc49()
    data = load_real(write(tmp_path / "a.h5", **stored))
    assert np.array_equal(data.train.pixels, stored["images_odd"][stored["indx_odd_subtrain"]])
    assert np.array_equal(data.open_test().pixels[30:], stored["images_even"])
    assert len(load_real(tmp_path / "a.h5", real_per_class=2).train) == 20  # two of each training angle


def test_float_fakes_and_vector_labels(tmp_path: Path) -> None:
    fakes = load_real(write(tmp_path / "a.h5", fake_images=pixels(40), fake_labels=np.linspace(0.1, 89.9, 40)))
    assert (fakes.label_space.kind, fakes.label_space.low, fakes.label_space.high) == ("continuous", 0.1, 89.9)
    whole = load_real(write(tmp_path / "b.h5", fake_images=pixels(40), fake_labels=classes(40, dtype="float64")))
    assert whole.label_space.kind == "classes"
    assert whole.train.labels.dtype == np.int64
    vector = load_real(write(tmp_path / "c.h5", images=pixels(40), labels=RNG.uniform(size=(40, 3))))
    assert vector.label_space.dimension == 3


def test_range_and_unit_come_from_attributes_or_the_description(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images=pixels(40), labels=np.linspace(1, 80, 40))
    with h5py.File(path, "r+") as file:
        file["labels"].attrs.update({"low": 0.0, "high": 90, "unit": "degrees"})
    assert (load_real(path).label_space.low, load_real(path).label_space.unit) == (0.0, "degrees")
    assert load_real(path).label_space.high == 90.0
    (tmp_path / "a.json").write_text('{"high": 100, "augmentations": ["translate"]}')
    assert load_real(path).label_space.high == 100.0
    assert load_real(path).allowed_augmentations == ("translate",)
    (tmp_path / "a.json").write_text('{"high": 50}')
    with pytest.raises(UserError, match=r"a\.h5 .*outside the stated range 0 to 50"):
        load_real(path)


def test_the_description_decides_what_the_numbers_leave_open(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", fake_images=pixels(60), fake_labels=classes(60))
    (tmp_path / "a.json").write_text('{"label_kind": "continuous", "unit": "years"}')
    assert load_real(path).label_space.to_json()["unit"] == "years"
    (tmp_path / "a.json").write_text('{"class_names": ["a", "b", "c", "d", "e"]}')
    assert load_real(path).label_space.names == ("a", "b", "c", "d", "e")
    (tmp_path / "a.json").write_text('{"class_names": ["a", "b"]}')
    with pytest.raises(UserError, match="gives 2 names, but there are 5 classes"):
        load_real(path)
    ages = write(tmp_path / "b.h5", fake_images=pixels(60), fake_labels=np.arange(60) * 7 + 1)
    assert load_real(ages).label_space.kind == "continuous"
    (tmp_path / "b.json").write_text('{"label_kind": "classes"}')
    with pytest.raises(UserError, match="too few to split off"):  # one image of each class
        load_real(ages)


def test_size_and_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images=pixels(40, 3, 32), labels=classes(40))
    small = load_real(path, resolution_px=16, channels=1)
    assert small.train.pixels.shape[1:] == (1, 16, 16)
    assert np.array_equal(small.hashes("train"), load_real(path).hashes("train"))  # no resolution moves an image
    assert "antialiasing" in small.describe()["resizing"]
    assert load_real(path, resolution_px=32).describe()["resizing"] == "none"
    wide = write(tmp_path / "b.h5", images=RNG.integers(0, 256, (40, 3, 8, 12), dtype=np.uint8), labels=classes(40))
    with pytest.raises(UserError, match="12 x 8, not square"):
        load_real(wide)
    assert load_real(wide, resolution_px=8).train.pixels.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (
            {"pictures": pixels(10), "labels": classes(10)},
            r"no known layout: it holds labels \(10\), pictures \(10 x 3",
        ),
        ({}, "no datasets"),
        ({"images": pixels(40).astype("float32"), "labels": classes(40)}, "must be uint8"),
        ({"images": pixels(40)[:, 0], "labels": classes(40)}, "images are 40 x 8 x 8, which is N x H x W; give N x 1"),
        ({"images": pixels(40)[:, [0, 1, 2, 0]], "labels": classes(40)}, "40 x 4 x 8 x 8; give N x 1 x H x W or N x 3"),
        ({"images": pixels(40)[:, :, :0], "labels": classes(40)}, "40 x 3 x 0 x 8, which is empty"),
        ({"images": pixels(40), "labels": classes(39)}, "one label each"),
        ({"images": pixels(40), "labels": np.full(40, 0.5)}, "range 0.5 to 0.5 is empty"),
        ({"images": pixels(40), "labels": np.append(np.linspace(0, 1, 39), np.nan)}, "not a finite number"),
        ({"images": pixels(2), "labels": classes(2)}, "2 images are too few"),
        ({"imgs": pixels(40), "labels": np.linspace(0, 1, 40)}, "class labels must be whole numbers"),
        ({"images": pixels(40), "labels": np.zeros((40, 2, 2))}, "give numbers, N or N x d"),
        (utkface() | {"indx_test": np.arange(79, 120)}, "in two parts of the split"),
        (utkface() | {"indx_test": np.arange(80, 121)}, "indx_test runs from 80 to 120"),
        (utkface() | {"indx_test": np.array([], dtype=np.int64)}, "no images"),
        (
            {"images_train": pixels(50), "labels_train": np.arange(50) % 3}
            | {"images_test": pixels(9), "labels_test": np.arange(9) % 4},
            r"bad\.h5 \(test\): label 3 is of no class that the training part has",
        ),
    ],
)
def test_bad_contents_are_named(datasets: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.h5", **datasets)
    with pytest.raises(UserError, match=words) as caught:
        load_real(path)
    assert "bad.h5" in str(caught.value)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource("absent.h5", "a", (10,))
    file.create_virtual_dataset("labels", layout)


def circle(file: h5py.File) -> None:
    group = file.create_group("round")
    group["again"] = group


def half_written(file: h5py.File) -> None:
    file.create_dataset("images", (100,), "u1", chunks=(10,), compression="gzip")[:50] = 1


HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external storage": (
        lambda file: file.create_dataset("labels", (10,), "u1", external=[("/etc/hostname", 0, 10)]),
        "keeps its data in another file",
    ),
    "virtual": (virtual, "virtual dataset"),
    "soft link": (lambda file: file.update({"labels": h5py.SoftLink("/elsewhere")}), "link to another place"),
    "external link": (lambda file: file.update({"x": h5py.ExternalLink("o.h5", "/a")}), "link to another place"),
    "nested link": (lambda file: file.create_group("g").update({"x": h5py.SoftLink("/a")}), "/g/x is a link"),
    "texts": (lambda file: file.create_dataset("labels", data=["a", "b"]), "of type object"),
    "references": (lambda file: file.create_dataset("labels", (1,), dtype=h5py.ref_dtype), "of type object"),
    "compound": (lambda file: file.create_dataset("labels", (1,), dtype=[("x", "i4")]), "only plain numbers"),
    "opaque": (lambda file: file.create_dataset("labels", data=np.void(b"abc")), "only plain numbers"),
    "empty space": (lambda file: file.create_dataset("labels", data=h5py.Empty("f4")), "only plain numbers"),
    "named type": (lambda file: file.update({"t": np.dtype("f8")}), "neither a group nor a dataset"),
    "circle": (circle, "too deeply nested"),
    "terabytes": (lambda file: file.create_dataset("labels", (2**43,), "u1"), "never written"),
    "half written": (half_written, "never written"),
    "odd filter": (lambda file: file.create_dataset("labels", data=np.arange(9), scaleoffset=0), "HDF5 filter 6"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_files_are_refused(case: str, tmp_path: Path) -> None:
    fill, words = HOSTILE[case]
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        fill(file)
    for opener in (open_trusted_layout,) if case == "texts" else (open_trusted_layout, load_real):
        with pytest.raises(UserError, match=words) as caught:
            opener(path)
        assert "hostile.h5" in str(caught.value)
    path.unlink()  # nothing keeps it open


def test_plain_storage_of_any_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    values = np.arange(5000, dtype=np.int64)
    with h5py.File(path, "w") as file:
        file.create_dataset("plain", data=values)
        file.create_dataset(
            "gzip", data=values * 0, compression="gzip", compression_opts=9, shuffle=True, fletcher32=True
        )
        file.create_dataset("deep/lzf", data=values, compression="lzf", chunks=(7,))
        file.create_dataset("none", data=values[:0])
        file.create_dataset("flag", data=np.array([True, False]))
        file.attrs["note"] = "text in attributes is fine"
    with open_trusted_layout(path) as file:
        assert np.array_equal(read_array(file["plain"], path), values)
        assert read_array(file["gzip"], path).max() == 0
        assert np.array_equal(read_array(file["deep/lzf"], path), values)


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.h5", images=pixels(40), labels=classes(40)).read_bytes()
    path = tmp_path / "torn.h5"
    for content in (b"", b"no hdf5", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"torn\.h5"):
            load_real(path)
    with pytest.raises(UserError, match="is not there"):
        open_trusted_layout(tmp_path / "absent.h5")


def test_a_flipped_byte_in_a_checksummed_block_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("images", data=pixels(40), chunks=(40, 3, 8, 8), fletcher32=True)
        file.create_dataset("labels", data=classes(40))
        offset = dataset.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.h5: dataset /images cannot be read"):
        load_real(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_headers_are_refused_or_read_but_never_crash(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = write(tmp_path / "a.h5", images=pixels(20, 1, 4), labels=classes(20, 2))
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    refusal, images = "", 0
    try:
        images = len(load_real(path).train)
    except UserError as error:
        refusal = str(error)
    assert images > 0 or "a.h5" in refusal


def test_a_small_file_that_declares_a_hundred_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        images = file.create_dataset("images", (1 << 15, 3, 1024, 1024), "u1", chunks=(1, 3, 1024, 1024), compression=1)
        images.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(3 << 20), 9))
        file.create_dataset("labels", data=classes(1 << 15))
    with pytest.raises(UserError, match="declares 103079215104 bytes but holds"):
        load_real(path)


@pytest.mark.slow
def test_a_file_that_unpacks_to_more_than_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, block, blocks = tmp_path / "bomb.h5", (64, 3, 1024, 1024), 2000
    packed = zlib.compress(bytes(64 * 3 << 20), 9)
    with h5py.File(path, "w") as file:
        shape = (64 * blocks, *block[1:])
        images = file.create_dataset("images", shape, "u1", chunks=block, compression="gzip")
        for number in range(blocks):
            images.id.write_direct_chunk((64 * number, 0, 0, 0), packed)
        file.create_dataset("labels", data=classes(len(images)))
    with pytest.raises(UserError, match=r"the images need .* GiB of memory, and .* are free"):
        load_real(path)

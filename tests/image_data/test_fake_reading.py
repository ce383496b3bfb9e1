"""Reading fakes: maps equal plain HDF5 reads, views, selections, workers, export, memory."""

from __future__ import annotations

import contextlib
import pickle
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from image_data.fake import FakeDataset, Selection, describe_fakes, export_h5, open_fakes
from image_data.sources import ArraySource, Concatenation
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import LabelPlan, sample
from tests.support.tiny_sampling import (
    ANGLES,
    CLASSES,
    CountingTeacher,
    TinyParts,
    angle_plan,
    angle_settings,
    class_plan,
    counting_parts,
    save_tiny_teacher,
    tiny_settings,
)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("fakes")
    teacher = save_tiny_teacher(folder / "teacher", CLASSES)
    return sample(TinyParts(teacher), class_plan(), tiny_settings(), folder / "out", LocalEngine(1))


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("angles")
    teacher = save_tiny_teacher(folder / "teacher", ANGLES)
    return sample(TinyParts(teacher), angle_plan(), angle_settings(), folder / "out", LocalEngine(1))


def plain(fakes: FakeDataset, name: str) -> np.ndarray:
    """The dataset's rows by h5py alone: every shard, cut by the manifest."""
    pieces = []
    for entry in fakes.manifest.shards:
        with h5py.File(fakes.path / "shards" / entry.name) as file:
            keep = fakes.manifest.used_rows(entry, file["fake_labels"][()], file["sample_index"][()])
            pieces.append(file[name][()][keep])
    return np.concatenate(pieces)


@pytest.mark.parametrize("kind", ["fakes", "angles"])
def test_mapped_reads_equal_plain_reads(kind: str, request: pytest.FixtureRequest) -> None:
    fakes: FakeDataset = request.getfixturevalue(kind)
    rows = np.random.default_rng(0).permutation(len(fakes))
    assert np.array_equal(fakes.images(rows), plain(fakes, "fake_images")[rows])
    assert np.array_equal(fakes.latents(rows), plain(fakes, "latents")[rows])
    assert np.array_equal(fakes.labels, plain(fakes, "fake_labels"))
    assert np.array_equal(fakes.sample_index, plain(fakes, "sample_index"))
    assert np.array_equal(fakes.density_ratio, plain(fakes, "density_ratio"))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, 119), max_size=40))
def test_any_rows_in_any_order(fakes: FakeDataset, rows: list[int]) -> None:
    whole = fakes.images(np.arange(120))
    assert np.array_equal(fakes.images(np.array(rows, dtype=np.int64)), whole[np.array(rows, dtype=np.int64)])


def test_rows_outside_are_refused(fakes: FakeDataset) -> None:
    for row in (-1, 120):
        with pytest.raises(IndexError):
            fakes.images(np.array([row]))
        with pytest.raises(IndexError):
            fakes.latents(np.array([row]))


def test_view_and_items(fakes: FakeDataset, angles: FakeDataset) -> None:
    view = fakes.view()
    assert len(view) == 120
    image, label = view[7]
    assert image.dtype == torch.uint8
    assert image.shape == (1, 16, 16)
    assert label.item() == fakes.labels[7]
    assert np.array_equal(view[-1][0].numpy(), fakes.images(np.array([119]))[0])
    assert angles.view()[0][1].dtype == torch.float64
    assert len(list(iter(view))) == 120
    real = ArraySource(np.zeros((5, 1, 16, 16), dtype=np.uint8), np.zeros(5, dtype=np.int64))
    both = Concatenation([real, view])
    assert np.array_equal(both.images(np.array([5, 0]))[0], image.numpy() * 0 + fakes.images(np.array([0]))[0])


def as_floats(image: torch.Tensor) -> torch.Tensor:
    """A transform that worker processes can import."""
    return image.float() / 255.0


def test_a_dataset_and_its_views_are_torch_datasets(fakes: FakeDataset) -> None:
    whole = fakes.images(np.arange(120))
    for dataset in (fakes, fakes.view()):
        assert len(dataset) == 120
        assert np.array_equal(dataset[-1][0].numpy(), whole[119])
        assert dataset[np.int64(7)][1].item() == fakes.labels[7]
        images, labels = zip(*dataset, strict=True)
        assert np.array_equal(np.stack(images), whole)
        assert np.array_equal(np.stack(labels), fakes.labels)
        for index in (120, -121):
            with pytest.raises(IndexError):
                dataset[index]
    chosen = Selection(np.arange(100, 0, -1), np.full(100, 2), {}, fakes.digest, np.linspace(0.5, 1.5, 100))
    view = fakes.view(chosen, transform=as_floats)
    part = view[10:90:20][1:]
    assert part.rows.tolist() == [70, 50, 30]
    assert part.labels.tolist() == [2, 2, 2]
    assert np.array_equal(part.weights, chosen.weights[[30, 50, 70]])
    assert len(view[50:50]) == len(list(view[50:50])) == 0
    assert torch.equal(part[0][0], torch.from_numpy(whole[70]).float() / 255.0)
    assert fakes[5:7].labels.tolist() == fakes.labels[5:7].tolist()
    assert np.array_equal(view.images(np.array([0])), whole[100:101])  # a transform is for items


def test_selection_round_trip(fakes: FakeDataset, tmp_path: Path) -> None:
    rows = np.array([3, 90, 41, 3], dtype=np.int64)
    labels = np.array([2, 2, 0, 1], dtype=np.int64)
    chosen = Selection(rows, labels, {"rho": 0.5, "relabel": True}, fakes.digest)
    chosen.save(tmp_path / "s.safetensors")
    again = Selection.load(tmp_path / "s.safetensors")
    assert np.array_equal(again.rows, rows)
    assert np.array_equal(again.labels, labels)
    assert (again.recipe, again.fakes_digest, again.digest) == (chosen.recipe, fakes.digest, chosen.digest)
    view = fakes.view(again)
    assert np.array_equal(view.labels, labels)
    assert np.array_equal(view.images(np.array([2, 1])), fakes.images(np.array([41, 90])))
    assert np.array_equal(view.latents(np.array([2])), fakes.latents(np.array([41])))
    assert np.array_equal(view.asked_labels(np.arange(4)), fakes.labels[rows])
    with pytest.raises(UserError, match="select again"):
        fakes.view(Selection(rows, labels, {}, "0" * 64))
    for row in (-1, 120, 500):
        with pytest.raises(UserError, match=rf"rows {row} to {row} .* has 120; select again"):
            fakes.view(Selection(np.array([row]), labels[:1], {}, fakes.digest))


def test_damaged_selections_are_refused(fakes: FakeDataset, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    Selection(np.arange(4), np.arange(4), {"rho": 1}, fakes.digest).save(path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with contextlib.suppress(UserError):  # where no error comes, a name of no meaning was changed
            assert np.array_equal(Selection.load(path).rows, np.arange(4))
    path.write_bytes(whole[:-3])
    with pytest.raises(UserError):
        Selection.load(path)
    with pytest.raises(UserError, match="missing"):
        Selection.load(tmp_path / "none")


def test_pickling_keeps_the_manifest_and_nothing_that_was_read(fakes: FakeDataset) -> None:
    fakes.images(np.arange(120))
    view = pickle.loads(pickle.dumps(fakes.view()))
    assert len(pickle.dumps(fakes)) < len(pickle.dumps(fakes.manifest)) + 1000
    assert np.array_equal(view.images(np.arange(120)), fakes.images(np.arange(120)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(fakes: FakeDataset, method: str) -> None:
    view = fakes.view(transform=as_floats)
    view.images(np.arange(120))  # maps are open in this process when the workers start
    loader = DataLoader(view, batch_size=16, num_workers=2, multiprocessing_context=method)
    images, labels = zip(*loader, strict=True)
    assert np.array_equal(torch.cat(images).numpy(), fakes.images(np.arange(120)) / np.float32(255.0))
    assert np.array_equal(torch.cat(labels).numpy(), fakes.labels)


@pytest.mark.parametrize("gzip_level", [None, 6])
def test_export_round_trip(fakes: FakeDataset, angles: FakeDataset, gzip_level: int | None, tmp_path: Path) -> None:
    for dataset, dtype in ((fakes, np.int64), (angles, np.float64)):
        out = tmp_path / f"{dtype.__name__}.h5"
        export_h5(dataset.path, out, gzip_level=gzip_level)
        with h5py.File(out) as file:
            assert set(file) == {"fake_images", "fake_labels"}
            assert file["fake_labels"].dtype == dtype
            assert np.array_equal(file["fake_images"][()], dataset.images(np.arange(len(dataset))))
            assert np.array_equal(file["fake_labels"][()], dataset.labels)
        with pytest.raises(UserError, match="exists"):
            export_h5(dataset.path, out)
    chosen = Selection(np.array([9, 2]), np.array([1, 1]), {}, fakes.digest)
    export_h5(fakes.path, tmp_path / "chosen.h5", chosen, gzip_level)
    with h5py.File(tmp_path / "chosen.h5") as file:
        assert np.array_equal(file["fake_images"][()], fakes.images(np.array([9, 2])))
        assert file["fake_labels"][()].tolist() == [1, 1]


def test_exported_file_is_one_of_the_accepted_layouts(fakes: FakeDataset, tmp_path: Path) -> None:
    from runtime.safe_files.hdf5_policy import open_trusted_layout

    export_h5(fakes.path, tmp_path / "f.h5", gzip_level=6)
    with open_trusted_layout(tmp_path / "f.h5") as file:
        assert len(file["fake_images"]) == 120


def test_description(fakes: FakeDataset) -> None:
    import json

    found = json.loads(json.dumps(describe_fakes(fakes.path), allow_nan=False))
    assert found["images"] == 120
    assert sum(entry["candidates"] for entry in found["by_label"]) == found["candidates"]
    assert 0.0 < found["acceptance_rate"] < 1.0
    assert 0.0 <= found["clipped_mass"] < 0.2
    assert found["scores"]["p" * 64]["error"]["q0"] <= found["scores"]["p" * 64]["error"]["q1"]
    assert found["parents"] == {"teacher": "t" * 64, "filter": "f" * 64, "predictor": "p" * 64}


def test_opening_and_reading_take_little_memory(tmp_path: Path) -> None:
    """28 MB of images: opening, a batch and all labels stay far below."""
    plan = LabelPlan.classes(CLASSES, 3000)
    chosen = tiny_settings(block_size=250, unit_candidates=1500, filter_digest="", predictor_digest="")
    sample(counting_parts, plan, chosen, tmp_path, LocalEngine(1))
    tracemalloc.start()
    fakes = open_fakes(tmp_path)
    opened = tracemalloc.get_traced_memory()[1]
    rows = np.random.default_rng(0).integers(len(fakes), size=64)
    images = fakes.images(rows)
    labels = fakes.labels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(images, CountingTeacher().levels(labels[rows], fakes.sample_index[rows]))
    assert opened < 200_000
    assert peak < 2_000_000

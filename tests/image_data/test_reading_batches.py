"""Training batches over mapped fakes: workers, ranks, resuming, mixing, checksums at a rate, maps, reading ahead."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from filters import select
from image_data.fake import FakeDataset, open_fakes, row_reader
from image_data.fake.row_maps import JoinedMaps, SeparateMaps
from image_data.fake.sealed import SHARD_LAYOUT, locate
from image_data.reader import BatchReader, Position
from image_data.sources import ArraySource
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import LabelPlan, sample
from tests.support.tiny_sampling import CLASSES, counting_parts, tiny_settings


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """600 images of 3x32x32 in several shards with rows past the cut."""
    folder = tmp_path_factory.mktemp("fakes")
    chosen = tiny_settings(filter_digest="", predictor_digest="")
    return sample(counting_parts, LabelPlan.classes(CLASSES, 200), chosen, folder, LocalEngine(1))


def real_images(count: int = 20) -> ArraySource:
    pixels = np.full((count, 3, 32, 32), 255, dtype=np.uint8)
    return ArraySource(pixels, np.arange(count) % 3)


def batches(reader: BatchReader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*reader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_an_epoch_shows_every_fake_once_with_its_label(fakes: FakeDataset) -> None:
    reader = BatchReader(fakes.view(), 50, 24, seed=3)
    images, labels = batches(reader)
    rows = np.concatenate([reader.rows(number) for number in range(24)])
    assert np.array_equal(np.sort(rows[:600]), np.arange(600))
    assert not np.array_equal(rows[:600], rows[600:])
    assert np.array_equal(images.numpy(), fakes.images(rows))
    assert np.array_equal(labels.numpy(), fakes.labels[rows])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_change_nothing(fakes: FakeDataset, method: str) -> None:
    reader = BatchReader(fakes.view(), 32, 25, seed=1, real=real_images(), real_share=0.2)
    images, labels = batches(reader)  # maps are open in this process when the workers start
    read = list(reader.loader(workers=2, method=method))
    assert torch.equal(torch.cat([batch[0] for batch in read]), images)
    assert torch.equal(torch.cat([batch[1] for batch in read]), labels)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_each_batch(fakes: FakeDataset, ranks: int) -> None:
    whole = BatchReader(fakes.view(), 32, 20, seed=1)
    parts = [BatchReader(fakes.view(), 32, 20, seed=1, rank=rank, ranks=ranks) for rank in range(ranks)]
    for number in range(20):
        together = torch.cat([part[number][0] for part in parts])
        assert torch.equal(together, whole[number][0])


def test_going_on_in_the_middle_of_an_epoch(fakes: FakeDataset) -> None:
    settings = {"seed": 9, "real": real_images(), "real_share": 0.1}
    whole = BatchReader(fakes.view(), 30, 60, **settings)
    images, labels = batches(whole)
    for done in (0, 7, 22, 45):
        at = pickle.loads(pickle.dumps(whole.position(done)))
        assert at == Position(*divmod(done * 30, whole.order.epoch_length))
        rest = BatchReader(fakes.view(), 15, 2 * (60 - done), start=at, **settings)  # also with another batch size
        assert torch.equal(batches(rest)[0], images[30 * done :])
        assert torch.equal(batches(rest)[1], labels[30 * done :])


def test_balanced_fakes_mixed_with_real_images(fakes: FakeDataset) -> None:
    chosen = fakes.view(select(fakes, nfake=90, seed=2))
    reader = BatchReader(chosen, 20, 6, seed=1, real=real_images(), real_share=0.25)
    images, labels = batches(reader)
    rows = np.concatenate([reader.rows(number) for number in range(6)])
    white = (images == 255).reshape(len(images), -1).all(dim=1).numpy()
    assert white.sum() == 30 == (rows >= 90).sum()
    assert np.array_equal(white, rows >= 90)
    assert np.bincount(labels[~torch.from_numpy(white)]).tolist() == [30, 30, 30]
    assert np.array_equal(labels[torch.from_numpy(white)].numpy(), (rows[white] - 90) % 3)


def test_maps_in_one_range_equal_separate_maps(fakes: FakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, size = fakes.manifest.shards, int(np.prod(fakes.image_shape))
    both = [kind([entry.rows for entry in entries], size) for kind in (JoinedMaps, SeparateMaps)]
    rng = np.random.default_rng(0)
    starts = np.array([[maps.fill(n, *_place(fakes, n)) for n in range(len(entries))] for maps in both])
    shards = rng.integers(len(entries), size=300)
    local = np.array([rng.integers(entries[shard].rows) for shard in shards.tolist()])
    joined, separate = (maps.take(start[shards] + local * size) for maps, start in zip(both, starts, strict=True))
    assert np.array_equal(joined, separate)
    monkeypatch.setattr(row_reader, "RowMaps", SeparateMaps)
    rows = rng.permutation(600)
    assert np.array_equal(open_fakes(fakes.path).images(rows), fakes.images(rows))
    assert open_fakes(fakes.path).images(np.empty(0, dtype=np.int64)).shape == (0, 3, 32, 32)


def _place(fakes: FakeDataset, number: int) -> tuple:
    path = fakes.path / "shards" / fakes.manifest.shards[number].name
    return path, locate(path, SHARD_LAYOUT)["fake_images"]


@pytest.mark.parametrize("every", [1, 4, 7])
def test_checksums_at_the_stated_rate(fakes: FakeDataset, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    real_crc32 = row_reader.zlib.crc32

    class Counting:
        @staticmethod
        def crc32(data: np.ndarray) -> int:
            checked.append(1)
            return real_crc32(data)

    monkeypatch.setattr(row_reader, "zlib", Counting)
    some = pickle.loads(pickle.dumps(open_fakes(fakes.path, check_every=every)))
    assert some.check_every == every
    counts = []
    for epoch in range(40):
        before = len(checked)
        rows = np.random.default_rng(epoch).permutation(600)
        for start in range(0, 600, 50):
            some.images(rows[start : start + 50])
        counts.append(len(checked) - before)
    assert counts[0] == -(-600 // every)
    if every == 1:
        assert sum(counts) == 600
    left = 600
    for count in counts:  # of the images that no one has compared yet, every k-th reading
        assert abs(count - left / every) <= 1
        left -= count
    assert left < 20


def test_a_damaged_image_is_found_in_the_first_pass(fakes: FakeDataset, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(fakes.path, tmp_path / "f")
    path, place = _place(fakes, 3)
    damaged = tmp_path / "f" / "shards" / path.name
    data = bytearray(damaged.read_bytes())
    data[place.offset + 5] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(UserError, match=f"{path.name}: row 0 does not match"):
        batches(BatchReader(open_fakes(tmp_path / "f").view(), 50, 12))
    never = open_fakes(tmp_path / "f", check=False)
    assert len(batches(BatchReader(never.view(), 50, 12))[0]) == 600


def test_the_disk_is_told_of_each_batch_once(fakes: FakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    view = fakes.view()
    reader = BatchReader(view, 50, 10, ahead=3)
    plain = batches(BatchReader(view, 50, 10, ahead=0))
    told: list[np.ndarray] = []
    expect = view.expect
    monkeypatch.setattr(view, "expect", lambda rows: (told.append(rows), expect(rows)))
    read = [reader[0]]
    assert len(told) == 4
    read += [reader[number] for number in range(1, 10)]
    assert np.array_equal(np.concatenate(told), np.concatenate([reader.rows(number) for number in range(10)]))
    assert torch.equal(torch.cat([batch[0] for batch in read]), plain[0])
    assert BatchReader(view, 50, 10).ahead == 0
    monkeypatch.setattr("image_data.reader.free_memory_bytes", lambda: 1_000_000)
    assert BatchReader(view, 50, 10).ahead == 16


def test_refusals(fakes: FakeDataset) -> None:
    view = fakes.view()
    for wrong in ({"batch_size": 0}, {"steps": -1}, {"ranks": 3}, {"rank": 2, "ranks": 2}):
        with pytest.raises(UserError):
            BatchReader(view, **{"batch_size": 32, "steps": 4, **wrong})
    with pytest.raises(UserError, match="cannot start"):
        BatchReader(view, 32, 4, start=Position(0, 600))
    with pytest.raises(UserError, match="check_every"):
        open_fakes(fakes.path, check_every=0)
    with pytest.raises(IndexError):
        BatchReader(view, 32, 4)[4]

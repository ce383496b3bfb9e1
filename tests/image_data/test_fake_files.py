"""The files behind a fake dataset: pickled readers, few handles, strangers, threads and forks."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filters import select
from image_data.fake import FakeDataset, Selection, open_fakes, row_maps, sealed, verify_fakes
from image_data.fake.manifest import read_manifest, write_manifest
from image_data.fake.row_maps import JoinedMaps
from image_data.fake.row_reader import RowReader
from image_data.fake.sealed import (
    SCORE_LAYOUT,
    SHARD_LAYOUT,
    Place,
    commit_sealed,
    locate,
    read_sealed,
    seal,
    sealed_attributes,
)
from image_data.reader import BatchReader
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from tests.support.store_runs import flip, run
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

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and maps of Linux")
FEW = 12  # fakes of each label


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """36 fakes in shards with rows past the cut, with scores."""
    return run(teacher, tmp_path_factory.mktemp("fakes"), fakes=FEW)


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """Labels in groups of three."""
    folder = tmp_path_factory.mktemp("angles")
    parts = TinyParts(save_tiny_teacher(folder / "teacher", ANGLES))
    return sample(parts, angle_plan(), angle_settings(), folder / "out", LocalEngine(1))


@pytest.fixture(scope="module")
def many(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """60 fakes, a shard each."""
    parts = TinyParts(teacher, with_filter=False, with_predictor=False)
    chosen = tiny_settings(block_size=4, unit_candidates=1, filter_digest="", predictor_digest="")
    return sample(parts, class_plan(20), chosen, tmp_path_factory.mktemp("many"), LocalEngine(1))


@pytest.fixture
def copy(whole: FakeDataset, tmp_path: Path) -> Path:
    shutil.copytree(whole.path, tmp_path / "o")
    return tmp_path / "o"


def first_shard(folder: Path) -> Path:
    return folder / "shards" / read_manifest(folder).shards[0].name


# Pickled readers


def test_a_pickled_reader_keeps_its_rows_while_the_dataset_grows(teacher: Path, tmp_path: Path) -> None:
    """As a worker does that is spawned in the next epoch: row 20 of the longer dataset is another image."""
    fakes = run(teacher, tmp_path, fakes=FEW)
    rows = np.arange(20, 36, dtype=np.int64)
    chosen = fakes.view(Selection(rows, fakes.labels[rows], {}, fakes.digest))
    reader = BatchReader(fakes.view(), 12, 3)
    pickled = pickle.dumps((chosen, reader))
    images, batches = chosen.images(np.arange(16)), list(reader)
    assert len(run(teacher, tmp_path, fakes=2 * FEW, extend=True)) == 72
    chosen, reader = pickle.loads(pickled)
    assert np.array_equal(chosen.images(np.arange(16)), images)
    assert np.array_equal(chosen.asked_labels(np.arange(16)), chosen.labels)
    assert np.array_equal(chosen.latents(np.arange(16)), fakes.latents(rows))
    for (read, labels), (known, known_labels) in zip(reader, batches, strict=True):
        assert np.array_equal(read, known)
        assert np.array_equal(labels, known_labels)
    assert (len(reader.fakes), len(open_fakes(tmp_path))) == (36, 72)


def test_labels_need_no_shard_or_travel(whole: FakeDataset, angles: FakeDataset, tmp_path: Path) -> None:
    """Of classes the manifest tells them; of groups of labels a process that knows them tells its workers."""
    for fakes in (whole, angles):
        stored = [(file["fake_labels"][()], file["sample_index"][()]) for file in shards_by_h5py(fakes)]
        pairs = zip(fakes.manifest.shards, stored, strict=True)
        expected = [labels[fakes.manifest.used_rows(entry, labels, k)] for entry, (labels, k) in pairs]
        assert np.array_equal(fakes.labels, np.concatenate(expected))
        folder = tmp_path / fakes.digest
        shutil.copytree(fakes.path, folder)
        known = open_fakes(folder)
        assert known.labels.dtype == fakes.labels.dtype
        shutil.rmtree(folder / "shards")
        assert np.array_equal(pickle.loads(pickle.dumps(known)).labels, fakes.labels)
        with pytest.raises(UserError, match="missing"):
            known.images(np.array([0]))
    shutil.copy(whole.path / "manifest.json", tmp_path)
    assert np.array_equal(open_fakes(tmp_path).labels, np.repeat([0, 1, 2], FEW))


def shards_by_h5py(fakes: FakeDataset) -> Iterator[h5py.File]:
    for entry in fakes.manifest.shards:
        with h5py.File(fakes.path / "shards" / entry.name) as file:
            yield file


# Handles and maps


@contextmanager
def handles(more: int) -> Iterator[None]:
    """Only so many more files can be opened."""
    free = [os.dup(0) for _ in range(more + 1)]
    for handle in free:
        os.close(handle)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@linux
def test_more_shards_than_file_handles(many: FakeDataset) -> None:
    fakes, rows = open_fakes(many.path), np.arange(60)
    before = len(os.listdir("/proc/self/fd"))
    with handles(6):
        images, latents, index = fakes.images(rows), fakes.latents(rows), fakes.sample_index
        ledger = list(fakes.ledger())
    assert (images.shape, latents.shape, index.tolist()) == ((60, 1, 16, 16), (60, 9), 3 * list(range(20)))
    assert sum(len(unit.k) for unit in ledger) == 60
    assert len(os.listdir("/proc/self/fd")) == before
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(many.path) in line]
    assert 60 <= len(mapped) <= 2 * 60  # one of the images, one of the latents, where these lie on other pages
    again = open_fakes(many.path)
    with handles(0), pytest.raises(UserError, match=r"unit-.* \(Too many open files\); raise the limit of open files"):
        again.images(rows)
    with handles(0), pytest.raises(UserError, match=r"manifest.json cannot be read \(Too many open files\)"):
        open_fakes(many.path)


@linux
def test_a_file_costs_one_map(tmp_path: Path) -> None:
    """No piece of the range stays unused between two files."""
    path = tmp_path / "shard"
    path.write_bytes(bytes(3 * 4096))
    before = len(Path("/proc/self/maps").read_text().splitlines())
    maps = JoinedMaps([2] * 50, 4096)
    for number in range(50):
        maps.fill(number, path, Place(0, np.dtype(np.uint8), (2, 4096), 0))
    assert len(Path("/proc/self/maps").read_text().splitlines()) - before < 60


@linux
def test_too_many_maps_name_their_limit(many: FakeDataset, tmp_path: Path) -> None:
    out = tmp_path / "said"
    process = multiprocessing.get_context("fork").Process(target=read_without_maps, args=(many.path, out), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "vm.max_map_count" in out.read_text()
    assert "unit-" in out.read_text()


def read_without_maps(folder: Path, out: Path) -> None:
    """Use the process's maps up, but for a few, by turning every other page of a range readable."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit > 300_000:
        out.write_text("unit- vm.max_map_count is too high to be reached here")
        return
    libc = row_maps._libc()
    size = (limit + 10) * 4096
    base = row_maps._map(None, size, 0, 0x22, -1, 0)
    used = len(Path("/proc/self/maps").read_text().splitlines())
    for page in range((limit - used) // 2 - 8):
        row_maps._map(base + 2 * page * 4096, 4096, 1, 0x32, -1, 0)
    try:
        open_fakes(folder).images(np.arange(60))
    except UserError as error:
        libc.munmap(base, size)
        out.write_text(str(error))


def test_sealed_files_are_read_without_maps(whole: FakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails under a map ends the process; a read is an error that names the file."""
    path = first_shard(whole.path)
    monkeypatch.setattr(sealed.np, "memmap", None)
    arrays = read_sealed(path, SHARD_LAYOUT, {})
    with h5py.File(path) as file:
        assert all(np.array_equal(arrays[name], file[name][()]) for name in arrays)


# Strangers


def rewrite(path: Path, arrays: dict[str, np.ndarray] | None = None, **attributes: Any) -> None:
    """A whole sealed file in the place of another."""
    layout = SHARD_LAYOUT if path.parent.name == "shards" else SCORE_LAYOUT
    before = read_sealed(path, layout, {})
    commit_sealed(path, seal({**before, **(arrays or {})}, {**sealed_attributes(path), **attributes}))


READS: dict[str, Callable[[FakeDataset], object]] = {
    "images": lambda fakes: fakes.images(np.arange(36)),
    "latents": lambda fakes: fakes.latents(np.arange(36)),
    "ledger": lambda fakes: list(fakes.ledger()),
}


@pytest.mark.parametrize("attribute", [{"settings": "0" * 64}, {"group": 1}, {"index": 1}])
def test_a_shard_of_another_run_or_place_is_refused(copy: Path, attribute: dict[str, Any]) -> None:
    path = first_shard(copy)
    rewrite(path, **attribute)
    for name, read in READS.items():
        print(name)
        with pytest.raises(UserError, match=rf"{path.name} is another file .*{next(iter(attribute))}"):
            read(open_fakes(copy))


@pytest.mark.parametrize("name", ["fake_images", "latents", "fake_labels"])
def test_a_shard_of_another_shape_is_refused(copy: Path, name: str) -> None:
    """Smaller images would be read past the end of the file, which ends the process."""
    path = first_shard(copy)
    array = read_sealed(path, SHARD_LAYOUT, {})[name]
    smaller = np.stack([array, array], axis=1) if name == "fake_labels" else array[..., :4]
    rewrite(path, {name: np.ascontiguousarray(smaller)})
    with pytest.raises(UserError, match=rf"{path.name}: {name} are of shape"):
        open_fakes(copy).images(np.arange(36))


def test_two_shards_that_were_swapped_are_refused(many: FakeDataset, tmp_path: Path) -> None:
    shutil.copytree(many.path, tmp_path / "o")
    first, second = (tmp_path / "o" / "shards" / many.manifest.shards[number].name for number in (0, -1))
    shutil.copy(first, second)
    with pytest.raises(UserError, match=second.name):
        open_fakes(tmp_path / "o").images(np.arange(60))


@pytest.mark.parametrize("attribute", [{"settings": "0" * 64}, {"predictor": "q" * 64}, {"shard": "unit-9-9.h5"}])
def test_scores_of_another_predictor_or_shard_are_refused(copy: Path, attribute: dict[str, Any]) -> None:
    path = copy / "scores" / ("p" * 64) / first_shard(copy).name
    rewrite(path, **attribute)
    with pytest.raises(UserError, match=rf"{path.name} is another file .*{next(iter(attribute))}"):
        open_fakes(copy).errors()


def test_distances_that_lack_files_name_their_own_command(copy: Path) -> None:
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.content, {**manifest.scores, "nearest-1-2": [], "q": []}, manifest.provenance)
    found = {problem.split("/")[-1].split()[0]: problem for problem in verify_fakes(copy)}
    assert "run `score --nearest` again" in found["nearest-1-2"]
    assert "run `score` again" in found["q"]


# Selections


def test_a_cut_by_error_reads_errors_only(copy: Path) -> None:
    """The outputs, a thousand times as large, are for relabelling: damage in them is no matter before."""
    for path in (copy / "scores" / ("p" * 64)).iterdir():
        flip(path, locate(path, SCORE_LAYOUT)["output"].offset)
    assert len(select(open_fakes(copy), rho=0.5)) == 18
    assert len(select(open_fakes(copy), keep="error rank < 0.5")) == 18
    with pytest.raises(UserError, match="output does not match"):
        select(open_fakes(copy), relabel=True)


# Threads and forks


@linux
def test_threads_read_while_shards_are_looked_at(many: FakeDataset) -> None:
    for target in (read_in_threads, read_while_another_thread_completes):
        process = multiprocessing.get_context("fork").Process(target=target, args=(many.path,), daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == 0, target.__name__


def read_in_threads(folder: Path) -> None:
    sys.setswitchinterval(1e-6)
    expected = open_fakes(folder).images(np.arange(60))
    for check in (False, True):
        fakes = open_fakes(folder, check=check)
        wrong: list[int] = []
        ready = threading.Barrier(4)

        def read(start: int, fakes: FakeDataset = fakes, wrong: list[int] = wrong, ready: Any = ready) -> None:
            rows = np.roll(np.arange(60), 5 * start)
            ready.wait(20)
            for row in [rows[place : place + 1] for place in range(60)]:
                if not np.array_equal(fakes.images(row), expected[row]):
                    wrong.append(int(row[0]))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
        assert fakes._images is not None
        assert fakes._images._left == 0


def read_while_another_thread_completes(folder: Path) -> None:
    """The last row is looked up just before another thread maps it, and nothing is left to do for any row."""
    expected = open_fakes(folder).images(np.arange(60))
    for check in (False, True):
        fakes = open_fakes(folder, check=check)
        fakes.images(np.arange(59))
        reader = fakes._images
        assert reader is not None
        look_up = reader._look_up

        def late(rows: np.ndarray, fakes: Any = fakes, reader: Any = reader, look_up: Any = look_up) -> np.ndarray:
            known: np.ndarray = look_up(rows)
            reader._look_up = look_up
            other = threading.Thread(target=fakes.images, args=(np.arange(60),))
            other.start()
            other.join(30)
            assert reader._left == 0
            return known

        reader._look_up = late  # type: ignore[method-assign]
        assert np.array_equal(fakes.images(np.array([59])), expected[59:])


@linux
def test_a_fork_while_another_thread_looks_at_a_shard(whole: FakeDataset) -> None:
    process = multiprocessing.get_context("fork").Process(target=whole.images, args=(np.arange(36),), daemon=True)
    with RowReader._looking:
        process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("every", [1, 3])
def test_each_row_is_compared_once_also_where_a_batch_names_it_twice(every: int, copy: Path) -> None:
    fakes = open_fakes(copy, check_every=every)
    random = np.random.default_rng(0)
    whole = open_fakes(copy, check=False).images(np.arange(36))
    for _ in range(40):
        rows = random.integers(36, size=20)
        assert np.array_equal(fakes.images(rows), whole[rows])
    assert fakes._images is not None
    assert fakes._images._left == np.count_nonzero(fakes._images._known < 0) == 0
    path = first_shard(copy)
    flip(path, locate(path, SHARD_LAYOUT)["fake_images"].offset)
    fakes.images(np.arange(36))  # compared before
    with pytest.raises(UserError, match="row 0 does not match"):
        open_fakes(copy, check_every=every).images(np.zeros(every, dtype=np.int64))

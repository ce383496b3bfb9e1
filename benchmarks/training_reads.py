"""Shuffled reading of fakes for training, against a tensor in memory, plain h5py reads and an image folder, in one run.

All sides run the same loop in one process of one thread, in turns: the batches of one shuffled order (`TrainingOrder`),
without a model, and with one (a training step of ResNet-8).  The tensor is gathered by `index_select`, the fastest way
there is.  In the loops the process's own memory is limited (RLIMIT_DATA) to what it has, the tensor included, plus a
fifth of the dataset (and what a step of the model takes): no reader can load the images, which is tried each time.
`h5py` and `ImageFolder` (PNG files) are datasets as people write them, one item a time, in torch's DataLoader without
workers.

`first pass`: every image is compared with its CRC-32, as the default is; `1 in 16`: with check_every=16.  `cold`: after
the files were dropped from the page cache, with and without telling the disk in advance.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.measuring import drop_from_cache, memory_of_process
from benchmarks.untrained import class_space, noise_dataset
from classifiers.networks import build_student
from image_data.fake import FakeDataset, open_fakes
from image_data.reader import BatchReader
from image_data.shuffle import TrainingOrder
from runtime.progress import say

SIZES = ((60_000, 3, 32), (20_000, 3, 64))  # images, channels, pixels
SMALL = ((6_000, 3, 32),)
BATCH = 128
EPOCHS = 12  # of the two fast sides, so that each is measured for about a second
Batches = Iterable[Any]


class PlainItems(Dataset[Any]):
    """One h5py read an item, all files open: the fastest form of plain h5py."""

    def __init__(self, fakes: FakeDataset) -> None:
        self._ends = np.cumsum([entry.used for entry in fakes.manifest.shards])
        self._files = [h5py.File(fakes.path / "shards" / entry.name) for entry in fakes.manifest.shards]
        self._images = [file["fake_images"] for file in self._files]
        self._labels = fakes.labels

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        shard = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return torch.from_numpy(self._images[shard][row - start]), int(self._labels[row])


def image_folder(fakes: FakeDataset, folder: Path, rows: np.ndarray) -> Dataset[Any]:
    """The images of these rows as PNG files in a folder of each class, read by torchvision."""
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    for row, image, label in zip(rows.tolist(), fakes.images(rows), fakes.labels[rows], strict=True):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{row}.png")
    folder_of_images: Dataset[Any] = ImageFolder(str(folder), transform=pil_to_tensor)
    return folder_of_images


def tensor_batches(images: torch.Tensor, labels: torch.Tensor, order: TrainingOrder, steps: int) -> Batches:
    """The loop over a tensor in memory."""
    for step in range(steps):
        rows = torch.from_numpy(order.rows(step * BATCH, (step + 1) * BATCH))
        yield images.index_select(0, rows), labels.index_select(0, rows)


class Model:
    """A training step of ResNet-8."""

    def __init__(self, channels: int, resolution_px: int) -> None:
        torch.manual_seed(0)
        network = build_student("resnet8", channels, resolution_px, class_space(10))
        self._network = network.to(memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Forward, backward, step."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(self._network(images), labels).backward()
        self._optimizer.step()


def rate(batches: Batches, model: Model | None = None) -> float:
    """Images a second of one pass."""
    count, start = 0, time.perf_counter()
    for images, labels in batches:
        count += len(images)
        if model is not None:
            model(images, labels)
    return count / (time.perf_counter() - start)


def limit_memory(bytes_of_its_own: int | None) -> None:
    """Set or lift the limit of the process's own memory."""
    limit = resource.RLIM_INFINITY if bytes_of_its_own is None else bytes_of_its_own
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def check_limit(dataset_bytes: int) -> None:
    """Under the limit the dataset does not fit."""
    try:
        mmap.mmap(-1, dataset_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return
    raise RuntimeError("the limit of memory does not hold")


def _measure_within(limit: int, dataset_bytes: int, side: str, measure: Callable[[], float], model_bytes: int) -> float:
    try:
        limit_memory(limit)
        check_limit(dataset_bytes)
        if side.endswith("model"):
            limit_memory(limit + model_bytes)
        return measure()
    finally:
        limit_memory(None)


def compare(
    count: int, channels: int, resolution_px: int, rounds: int, steps: int, place: Path | None
) -> dict[str, Any]:
    """Images a second of each side, and their ratios; medians over rounds.

    `steps`: of the model on images of 32 x 32 (fewer on larger ones).  The files are made in `place`.
    """
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = noise_dataset(Path(name) / "f", count, channels, resolution_px)
        torch.set_num_threads(1)
        table = {"images": f"{count} of {channels}x{resolution_px}x{resolution_px}", **read_cold(folder)}
        some = np.sort(np.random.default_rng(0).permutation(count)[: count // 15])
        pictures = image_folder(open_fakes(folder), Path(name) / "png", some)
        table["PNG files"] = len(some)
        sides = Sides(folder, pictures, (channels, resolution_px), some, steps)
        size = sides.tensor.nbytes
        table |= {"dataset, MB": round(size / 1e6, 1), "left to the readers, MB": round(size / 5e6, 1)}
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        limit = memory_of_process("VmData") + size // 5
        rates: dict[str, list[float]] = {}
        turns = list(sides.all().items())
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for side, measure in turns[number:] + turns[:number]:  # no side is always the first
                rates.setdefault(side, []).append(_measure_within(limit, size, side, measure, sides.model_bytes))
    return table | with_ratios({side: float(np.median(values)) for side, values in rates.items()})


class Sides:
    """What is compared.  Everything that takes memory is made here, before the limit."""

    def __init__(
        self, folder: Path, pictures: Dataset[Any], shape: tuple[int, int], some: np.ndarray, steps: int
    ) -> None:
        self.folder, self.pictures, self.some = folder, pictures, some
        channels, resolution_px = shape
        self.model = Model(channels, resolution_px)
        before = memory_of_process("VmSize")
        self.model(torch.zeros(BATCH, channels, resolution_px, resolution_px), torch.zeros(BATCH, dtype=torch.long))
        self.model_bytes = memory_of_process("VmPeak") - before
        warm = open_fakes(folder, check=False)
        self.tensor = torch.from_numpy(warm.images(np.arange(len(warm))))
        self.labels = torch.from_numpy(warm.labels)
        self.order = TrainingOrder(len(warm))
        self.plain = PlainItems(warm)
        self.steps, self.model_steps = len(warm) // BATCH, max(2, steps * 32**2 // resolution_px**2)
        self.many_steps = EPOCHS * self.steps
        self.later = BatchReader(open_fakes(folder).view(), BATCH, self.many_steps, ahead=0)
        rate(self.later)

    def all(self) -> dict[str, Callable[[], float]]:
        """Each side's measurement of one pass, in images a second."""
        few = range(self.model_steps)
        return {
            "tensor": lambda: rate(tensor_batches(self.tensor, self.labels, self.order, self.many_steps)),
            "reader": lambda: rate(self.later),
            "first pass": lambda: rate(self._fresh(1)),
            "first pass, 1 in 16": lambda: rate(self._fresh(16)),
            "h5py": lambda: rate(self._items(Subset(self.plain, self.some.tolist()))),
            "ImageFolder": lambda: rate(self._items(self.pictures)),
            "tensor, model": lambda: rate(tensor_batches(self.tensor, self.labels, self.order, len(few)), self.model),
            "reader, model": lambda: rate((self.later[step] for step in few), self.model),
            "first pass, model": lambda: rate(
                (reader[step] for reader in [self._fresh(1)] for step in few), self.model
            ),
            "h5py, model": lambda: rate(self._items(self.plain, len(few)), self.model),
            "ImageFolder, model": lambda: rate(self._items(self.pictures, len(few)), self.model),
        }

    def _fresh(self, every: int) -> BatchReader:
        return BatchReader(open_fakes(self.folder, check_every=every).view(), BATCH, self.steps, ahead=0)

    def _items(self, dataset: Dataset[Any], steps: int | None = None) -> Batches:
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True)
        for number, batch in enumerate(loader):
            if steps is not None and number >= steps:
                return
            yield batch


def read_cold(folder: Path) -> dict[str, float]:
    """Images a second of the first pass after the page cache was emptied, checksums left out."""
    rates = {}
    for name, ahead in (("cold", 0), ("cold, read 16 batches ahead", 16)):
        gc.collect()
        drop_from_cache(folder)
        fakes = open_fakes(folder, check=False)
        rates[f"{name}, images/s"] = rate(BatchReader(fakes.view(), BATCH, len(fakes) // BATCH, ahead=ahead))
        del fakes
    return rates


def with_ratios(rates: dict[str, float]) -> dict[str, float]:
    """Images a second, and each side as a share of the tensor's rate; the reader as a multiple of the others."""
    table = {f"{side}, images/s": value for side, value in rates.items()}
    for end in ("", ", model"):
        sides = ("reader", "first pass", "h5py", "ImageFolder") if end else tuple(
            side for side in rates if side != "tensor" and not side.endswith("model")
        )  # fmt: skip
        table |= {f"{side}{end} / tensor{end}": rates[side + end] / rates["tensor" + end] for side in sides}
        table |= {
            f"reader{end} / {side}{end}": rates["reader" + end] / rates[side + end] for side in ("h5py", "ImageFolder")
        }
    return table

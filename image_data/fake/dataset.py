"""Reading a finished fake dataset: images by row number, from maps over the sealed shards.

Opening reads the manifest only.  No HDF5 handle and no lock is kept: a shard is looked at once, when its first row is
asked for, and its pages are mapped.  Each image, and each other array as a whole, is checked against its CRC-32 the
first time that a process reads it; of the images it may be every k-th only.
A missing, short or damaged shard is an error that names it, never zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from image_data.fake.manifest import NEAREST_PREFIX, Manifest, read_manifest, score_path
from image_data.fake.row_reader import RowReader
from image_data.fake.sealed import SCORE_LAYOUT
from image_data.fake.selection import Selection
from image_data.fake.shard_files import SealedFile, ShardFiles
from image_data.fake.view import FakeView, Item, Transform
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.errors import UserError


@dataclass(frozen=True, eq=False)
class Scores:
    """What one predictor says of each row of the dataset.

    `output`: float16 N x C logits (classes), or float32 N (or N x d) predictions in the user's units.
    `error`: float32 N, cross entropy in nats, or absolute error in the user's units.
    """

    output: np.ndarray
    error: np.ndarray
    digest: str


@dataclass(frozen=True, eq=False)
class UnitLedger:
    """Every candidate of one unit, in the order of the draws; all arrays of the same length.

    `label` in the user's units; `k` candidate number within its label; `r` density ratio; `accepted` bool.
    """

    name: str
    label: np.ndarray
    k: np.ndarray
    r: np.ndarray
    accepted: np.ndarray


class FakeDataset(ImageSource):
    """A finished fake dataset; `open_fakes` opens it.  Rows are ordered by unit: label (group), then k.

    Indexes and iterates as `view()` does, so that it is a torch dataset of (uint8 C x H x W, label) items itself.
    Picklable: the manifest travels, so that another process reads these very rows, even where the folder has been
    extended meanwhile (which only adds shards); each process maps the shards anew.  Safe after fork, and for threads.
    """

    on_disk = True

    def __init__(self, path: Path, check: bool = True, check_every: int = 1, manifest: Manifest | None = None) -> None:
        if check_every < 1:
            raise UserError(f"check_every is {check_every}; give 1 (check every image once) or more.")
        self.path = Path(path)
        self.check, self.check_every = check, check_every
        self.manifest: Manifest = manifest or read_manifest(self.path)
        self.label_space: LabelSpace = self.manifest.label_space
        self._shards = ShardFiles(self.path, self.manifest, check)
        self._shape = (-1, *self.image_shape)
        self._images: RowReader | None = None  # opened with the first image
        self._latents: RowReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        arguments = {"path": self.path, "check": self.check, "check_every": self.check_every, "manifest": self.manifest}
        labels = {} if self._shards.single else {"labels": self.__dict__.get("labels")}  # a look at every shard
        return {"arguments": arguments, **labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FakeDataset.__init__(self, **state["arguments"])
        if state.get("labels") is not None:
            self.__dict__["labels"] = state["labels"]

    def __len__(self) -> int:
        return int(self._shards.starts[-1])

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> FakeView: ...
    def __getitem__(self, index: int | slice) -> Item | FakeView:
        return self.view()[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        return self.view().__getitems__(indices)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.view())

    @property
    def digest(self) -> str:
        """The dataset's name: the digest of its content."""
        return self.manifest.digest

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.manifest.content["image_shape"]
        return int(channels), int(height), int(width)

    @property
    def has_latents(self) -> bool:
        """Whether latents were stored."""
        content = self.manifest.content
        return bool(content["settings"]["store_latents"]) and content["latent_dimension"] is not None

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 N, or float64 N (or N x d): the label asked of the teacher."""
        return self._shards.labels()

    @cached_property
    def sample_index(self) -> np.ndarray:
        """int64 N: candidate number k within its label."""
        return self._shards.column("sample_index")

    @cached_property
    def row_crc32(self) -> np.ndarray:
        """uint32 N: the checksum of each image."""
        return self._shards.column("row_crc32")

    @cached_property
    def density_ratio(self) -> np.ndarray | None:
        """float32 N: the ratio that acceptance used; None where no filter was used (the shards then hold ones)."""
        return self._shards.column("density_ratio") if self.manifest.content["has_ratio"] else None

    def images(self, rows: np.ndarray) -> np.ndarray:
        """uint8 len(rows) x C x H x W, in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        return (self._images or self._read_images()).take(rows).reshape(self._shape)

    def expect(self, rows: np.ndarray) -> None:
        """Ask the operating system to begin reading the images of these rows from the disk; does not wait."""
        (self._images or self._read_images()).expect(np.asarray(rows, dtype=np.int64).reshape(-1))

    def _read_images(self) -> RowReader:
        every = self.check_every if self.check else None
        self._images = RowReader(self._shards, "fake_images", math.prod(self.image_shape), every)
        return self._images

    @property
    def image_bytes(self) -> int:
        """Bytes of all images, rows past the cut included."""
        return sum(entry.rows for entry in self.manifest.shards) * math.prod(self.image_shape)

    def latents(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 len(rows) x z, or None where none were stored."""
        if not self.has_latents:
            return None
        if self._latents is None:
            size = 4 * int(self.manifest.content["latent_dimension"])
            self._latents = RowReader(self._shards, "latents", size, None)
        return self._latents.take(np.asarray(rows, dtype=np.int64).reshape(-1)).view(np.float32)

    def score_sets(self) -> list[str]:
        """Digests of the predictors that have scored this dataset."""
        return sorted(name for name in self.manifest.scores if not name.startswith(NEAREST_PREFIX))

    def scores(self, digest: str | None = None) -> Scores:
        """The scores of one predictor; without a digest, those of the sampling run, or the only set.

        Raises UserError where there is no such set or a file of it is missing.
        """
        chosen = self.score_set(digest)
        columns = self._score_columns(chosen, tuple(SCORE_LAYOUT))
        return Scores(columns["output"], columns["error"], chosen)

    def errors(self, digest: str | None = None) -> np.ndarray:
        """float32 N: the errors of `scores` alone; the outputs, which may be a thousand times as large, stay unread."""
        return self._score_columns(self.score_set(digest), ("error",))["error"]

    def score_set(self, digest: str | None = None) -> str:
        """The full digest of the set that `scores` takes; UserError where there is none, or several could be meant."""
        sets = self.score_sets()
        own = self.manifest.content["settings"].get("predictor_digest")
        chosen = digest or (own if own in sets else (sets[0] if len(sets) == 1 else None))
        matches = [name for name in sets if chosen and name.startswith(chosen)]
        if len(matches) != 1:
            known = ", ".join(name[:8] for name in sets) or "none"
            raise UserError(
                f"{self.path} has no single score set {chosen or '(none named)'}; it has: {known}. Run `score` first."
            )
        return matches[0]

    def _score_columns(self, chosen: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
        listed = {entry.name for entry in self.manifest.scores[chosen]}
        for number, entry in enumerate(self.manifest.shards):
            if entry.name not in listed:
                path = score_path(self.path, chosen, entry.name)
                raise UserError(f"{path} is not there yet; run `score` again with the same predictor.")
            file = self._shards.scores(chosen, entry)
            for name, pieces in columns.items():
                pieces.append(self.cut(number, file.array(name)))
        return {name: np.concatenate(pieces) for name, pieces in columns.items()}

    def view(self, selection: Selection | None = None, transform: Transform | None = None) -> FakeView:
        """A sized, indexable view for training: all rows, or those of a selection with its labels.

        `transform` changes the image of each item (uint8 C x H x W tensor -> anything), as torchvision's does.
        Raises UserError where the selection belongs to another dataset, or names rows that this one has not.
        """
        if selection is None:
            return FakeView(self, None, None, None, transform)
        if selection.fakes_digest != self.digest:
            raise UserError(
                f"the selection belongs to the fakes {selection.fakes_digest[:8]}, not to {self.path} "
                f"({self.digest[:8]}); select again."
            )
        rows = selection.rows
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise UserError(
                f"the selection names rows {rows.min()} to {rows.max()} and {self.path} has {len(self)}; select again."
            )
        return FakeView(self, rows, selection.labels, selection.weights, transform)

    def ledger(self) -> Iterator[UnitLedger]:
        """Unit by unit, every candidate, the rejected ones and those past the cut too."""
        planned = self.manifest.labels
        group_size = int(self.manifest.content["settings"]["group_size"])
        for number, entry in enumerate(self.manifest.shards):
            file = self._shards.file(number)
            k = file.array("candidates/k")
            group = planned[entry.group * group_size : (entry.group + 1) * group_size]
            counts = self.manifest.candidate_counts(entry)
            if int(counts.sum()) != len(k):
                raise UserError(f"{file.path} holds {len(k)} candidates where its unit has {counts.sum()}; restore it.")
            place = np.repeat(np.arange(len(group)), counts)
            accepted = np.zeros(len(k), dtype=bool)
            if entry.rows:
                accepted[self._ledger_rows(file, group, counts, k)] = True
            yield UnitLedger(entry.name, group[place], k, file.array("candidates/r"), accepted)

    def _ledger_rows(self, file: SealedFile, group: np.ndarray, counts: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Positions of the stored rows among the unit's candidates (both in the order of the draws)."""
        labels, index = file.array("fake_labels"), file.array("sample_index")
        same = (labels[:, None] == group[None]).reshape(len(labels), len(group), -1).all(axis=2)
        starts = np.cumsum(counts) - counts
        return starts[same.argmax(axis=1)] + (index - k[0])

    def cut(self, number: int, array: np.ndarray) -> np.ndarray:
        """The rows of an array, aligned with shard `number`, that belong to the dataset."""
        return self._shards.cut(number, array)


def open_fakes(path: Path, check: bool = True, check_every: int = 1) -> FakeDataset:
    """Open a finished fake dataset; reads the manifest only.

    `check`: compare each image, and each other array of a shard, with its CRC-32 on its first use in a process.
    `check_every` k above 1: only every k-th reading of an image that this process has not compared yet.
    Raises UserError where `path` holds no finished dataset.
    """
    return FakeDataset(Path(path), check, check_every)

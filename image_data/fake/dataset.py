"""Reading a finished fake dataset: images by row number, from maps over the sealed shards.

Opening reads the manifest only.  No HDF5 handle and no lock is kept: a shard is looked at once, when its first row is
asked for, and its pages are mapped.  Each image, and each other array as a whole, is checked against its CRC-32 the
first time that a process reads it; of the images it may be every k-th only.
A missing, short or damaged shard is an error that names it, never zeros.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.manifest import NEAREST_PREFIX, Manifest, ShardEntry, read_manifest, score_path, shard_path
from image_data.fake.row_maps import RowMaps
from image_data.fake.sealed import SCORE_LAYOUT, SHARD_LAYOUT, Layout, Place, check_crc32, locate, map_place
from image_data.fake.selection import Selection
from image_data.fake.view import FakeView
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


class _MappedFile:
    """One sealed file: where its datasets lie, and maps over those that were asked for."""

    def __init__(self, path: Path, layout: Layout, rows: int, check: bool) -> None:
        self.path, self.check = path, check
        self.places: dict[str, Place] = locate(path, layout)
        found = self.places["fake_images" if layout is SHARD_LAYOUT else "error"].shape[0]
        if found != rows:
            raise UserError(f"{path} holds {found} rows where the manifest says {rows}; make it again with `repair`.")
        self._maps: dict[str, np.ndarray] = {}

    def array(self, name: str) -> np.ndarray:
        """A map over the dataset, checked whole on its first use; images are left to `FakeDataset`, row by row."""
        if name not in self._maps:
            found = map_place(self.path, self.places[name])
            if self.check and name != "fake_images":
                check_crc32(self.path, name, found, self.places[name])
            self._maps[name] = found
        return self._maps[name]


class FakeDataset:
    """A finished fake dataset; made by `open_fakes`.  Rows are ordered by unit: label (group), then k.

    Picklable: only the path travels, and each process maps the shards anew.  Safe after fork.
    """

    def __init__(self, path: Path, check: bool = True, check_every: int = 1) -> None:
        if check_every < 1:
            raise UserError(f"check_every is {check_every}; give 1 (check every image once) or more.")
        self.path = Path(path)
        self.check, self.check_every = check, check_every
        self.manifest: Manifest = read_manifest(self.path)
        self.label_space: LabelSpace = self.manifest.label_space
        ends = np.cumsum([entry.used for entry in self.manifest.shards], dtype=np.int64)
        self._starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])
        self._shards: dict[int, _MappedFile] = {}
        self._used: dict[int, np.ndarray | None] = {}
        self._rows_read: _RowsRead | None = None  # made with the first image

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "check": self.check, "check_every": self.check_every}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FakeDataset.__init__(self, **state)

    def __len__(self) -> int:
        return int(self._starts[-1])

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
        return self._column("fake_labels")

    @cached_property
    def sample_index(self) -> np.ndarray:
        """int64 N: candidate number k within its label."""
        return self._column("sample_index")

    @cached_property
    def density_ratio(self) -> np.ndarray | None:
        """float32 N: the ratio that acceptance used; None where no filter was used (the shards then hold ones)."""
        return self._column("density_ratio") if self.manifest.content["has_ratio"] else None

    def images(self, rows: np.ndarray) -> np.ndarray:
        """uint8 len(rows) x C x H x W, in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        known = self._rows_read or self._read_rows()
        positions = self._positions(known, rows)
        pixels = known.maps.take(positions)
        if known.unchecked and self.check:
            self._check_images(known, rows, positions, pixels)
        return pixels.reshape(known.shape)

    def expect(self, rows: np.ndarray) -> None:
        """Ask the operating system to begin reading the images of these rows from the disk; does not wait."""
        known = self._read_rows()
        known.maps.expect(self._positions(known, np.asarray(rows, dtype=np.int64).reshape(-1)))

    @property
    def image_bytes(self) -> int:
        """Bytes of all images, rows past the cut included."""
        return sum(entry.rows for entry in self.manifest.shards) * math.prod(self.image_shape)

    def latents(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 len(rows) x z, or None where none were stored."""
        if not self.has_latents:
            return None
        rows = self._rows(rows)
        owners = self._owners(rows)
        out = np.empty((len(rows), int(self.manifest.content["latent_dimension"])), dtype=np.float32)
        for shard in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == shard)
            local, used = rows[mine] - self._starts[shard], self._used_rows(shard)
            out[mine] = self._shard(shard).array("latents")[local if used is None else used[local]]
        return out

    def score_sets(self) -> list[str]:
        """Digests of the predictors that have scored this dataset."""
        return sorted(name for name in self.manifest.scores if not name.startswith(NEAREST_PREFIX))

    def scores(self, digest: str | None = None) -> Scores:
        """The scores of one predictor; without a digest, those of the sampling run, or the only set.

        Raises UserError where there is no such set or a file of it is missing.
        """
        sets = self.score_sets()
        own = self.manifest.content["settings"].get("predictor_digest")
        chosen = digest or (own if own in sets else (sets[0] if len(sets) == 1 else None))
        matches = [name for name in sets if chosen and name.startswith(chosen)]
        if len(matches) != 1:
            known = ", ".join(name[:8] for name in sets) or "none"
            raise UserError(
                f"{self.path} has no single score set {chosen or '(none named)'}; it has: {known}. Run `score` first."
            )
        found = {name: [] for name in SCORE_LAYOUT}  # type: dict[str, list[np.ndarray]]
        listed = {entry.name for entry in self.manifest.scores[matches[0]]}
        for number, entry in enumerate(self.manifest.shards):
            path = score_path(self.path, matches[0], entry.name)
            if entry.name not in listed:
                raise UserError(f"{path} is not there yet; run `score` again with the same predictor.")
            file = _MappedFile(path, SCORE_LAYOUT, entry.rows, self.check)
            for name, pieces in found.items():
                pieces.append(self.cut(number, file.array(name)))
        return Scores(np.concatenate(found["output"]), np.concatenate(found["error"]), matches[0])

    def view(self, selection: Selection | None = None) -> FakeView:
        """A sized, indexable view for training: all rows, or those of a selection with its labels."""
        if selection is None:
            return FakeView(self, None, None)
        if selection.fakes_digest != self.digest:
            raise UserError(
                f"the selection belongs to the fakes {selection.fakes_digest[:8]}, not to {self.path} "
                f"({self.digest[:8]}); select again."
            )
        return FakeView(self, self._rows(selection.rows), selection.labels, selection.weights)

    def ledger(self) -> Iterator[UnitLedger]:
        """Unit by unit, every candidate, the rejected ones and those past the cut too."""
        planned = self.manifest.labels
        group_size = int(self.manifest.content["settings"]["group_size"])
        for number, entry in enumerate(self.manifest.shards):
            file = self._shard(number)
            k = np.array(file.array("candidates/k"))
            group = planned[entry.group * group_size : (entry.group + 1) * group_size]
            counts = self.manifest.candidate_counts(entry)
            if int(counts.sum()) != len(k):
                raise UserError(f"{file.path} holds {len(k)} candidates where its unit has {counts.sum()}; restore it.")
            place = np.repeat(np.arange(len(group)), counts)
            accepted = np.zeros(len(k), dtype=bool)
            if entry.rows:
                accepted[self._ledger_rows(file, group, counts, k)] = True
            yield UnitLedger(entry.name, group[place], k, np.array(file.array("candidates/r")), accepted)

    def shards(self) -> Iterator[tuple[ShardEntry, dict[str, np.ndarray]]]:
        """Every shard with maps over its datasets (rows past the cut included)."""
        for number, entry in enumerate(self.manifest.shards):
            file = self._shard(number)
            yield entry, {name: file.array(name) for name in file.places}

    def _ledger_rows(self, file: _MappedFile, group: np.ndarray, counts: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Positions of the stored rows among the unit's candidates (both in the order of the draws)."""
        labels, index = file.array("fake_labels"), file.array("sample_index")
        same = (labels[:, None] == group[None]).reshape(len(labels), len(group), -1).all(axis=2)
        starts = np.cumsum(counts) - counts
        return starts[same.argmax(axis=1)] + (np.asarray(index) - k[0])

    def _shard(self, number: int) -> _MappedFile:
        if number not in self._shards:
            entry = self.manifest.shards[number]
            self._shards[number] = _MappedFile(shard_path(self.path, entry.name), SHARD_LAYOUT, entry.rows, self.check)
        return self._shards[number]

    def _used_rows(self, number: int) -> np.ndarray | None:
        """The shard's rows that belong to the dataset; None for all of them."""
        if number not in self._used:
            entry = self.manifest.shards[number]
            rows: np.ndarray | None = None
            if entry.used < entry.rows:
                file = self._shard(number)
                rows = self.manifest.used_rows(entry, file.array("fake_labels"), file.array("sample_index"))
            self._used[number] = rows
        return self._used[number]

    def cut(self, number: int, array: np.ndarray) -> np.ndarray:
        """The rows of an array, aligned with shard `number`, that belong to the dataset."""
        rows = self._used_rows(number)
        return np.array(array if rows is None else array[rows])

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate(
            [self.cut(number, self._shard(number).array(name)) for number in range(len(self.manifest.shards))]
        )

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a fake dataset of {len(self)}")
        return rows

    def _owners(self, rows: np.ndarray) -> np.ndarray:
        """The shard of each row."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _read_rows(self) -> _RowsRead:
        if self._rows_read is None:
            self._rows_read = _RowsRead(len(self), [entry.rows for entry in self.manifest.shards], self.image_shape)
        return self._rows_read

    def _positions(self, known: _RowsRead, rows: np.ndarray) -> np.ndarray:
        """Each row's place in the maps; shards are looked at, and mapped, where that was not yet done."""
        if rows.size and np.minimum.reduce(rows) < 0:
            raise IndexError(f"row {rows.min()} of a fake dataset of {len(self)}")
        found: np.ndarray = known.position[rows]  # an IndexError where a row is too large
        if len(known.sums) < len(known.first) and rows.size and found.min() < 0:
            for shard in np.unique(self._owners(rows[found < 0])).tolist():
                file, used = self._shard(shard), self._used_rows(shard)
                span = slice(int(self._starts[shard]), int(self._starts[shard + 1]))
                local = np.arange(span.stop - span.start) if used is None else used
                known.first[shard] = known.maps.fill(shard, file.path, file.places["fake_images"])
                known.sums[shard] = file.array("row_crc32").data
                known.position[span] = known.first[shard] + local * known.maps.row_bytes
            found = known.position[rows]
        return found

    def _check_images(self, known: _RowsRead, rows: np.ndarray, positions: np.ndarray, pixels: np.ndarray) -> None:
        """Compare with its CRC-32 every k-th image that was not yet compared in this process."""
        fresh = np.flatnonzero(~known.checked[rows])
        chosen = fresh[-known.offered % self.check_every :: self.check_every]
        known.offered += len(fresh)
        owners = self._owners(rows[chosen])
        local = (positions[chosen] - known.first[owners]) // known.maps.row_bytes
        for place, shard, row in zip(chosen.tolist(), owners.tolist(), local.tolist(), strict=True):
            if zlib.crc32(pixels[place]) != known.sums[shard][row]:
                raise UserError(
                    f"{self._shards[shard].path}: row {row} does not match its checksum; the file is damaged, run "
                    f"`verify` and `repair`."
                )
        known.checked[rows[chosen]] = True
        known.unchecked -= len(np.unique(rows[chosen]))


class _RowsRead:
    """What a process knows of the images: maps, where each row lies in them, and which rows were checked."""

    def __init__(self, count: int, rows: list[int], image_shape: tuple[int, int, int]) -> None:
        self.maps = RowMaps(rows, math.prod(image_shape))
        self.shape = (-1, *image_shape)
        self.position = np.full(count, -1, dtype=np.int64)  # -1: its shard was not yet looked at
        self.first = np.zeros(len(rows), dtype=np.int64)  # position of each shard's first row
        self.sums: dict[int, memoryview] = {}  # row_crc32 of the shards that were looked at
        self.checked = np.zeros(count, dtype=bool)
        self.unchecked, self.offered = count, 0  # rows never compared; how many such rows were read so far


def open_fakes(path: Path, check: bool = True, check_every: int = 1) -> FakeDataset:
    """Open a finished fake dataset; reads the manifest only.

    `check`: compare each image, and each other array of a shard, with its CRC-32 on its first use in a process.
    `check_every` k above 1: only every k-th reading of an image that this process has not compared yet.
    Raises UserError where `path` holds no finished dataset.
    """
    return FakeDataset(Path(path), check, check_every)

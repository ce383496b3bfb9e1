"""The files of a fake dataset, looked at one by one: each must be the one that the manifest means.

A file is opened, its layout, its shapes and what it says of itself are compared with the manifest, and it is closed
again.  Its small arrays are read, and checked against their CRC-32; only images and latents are mapped, by
`row_reader`.  So neither handles nor maps grow with the number of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.manifest import Manifest, ShardEntry, score_path, shard_path
from image_data.fake.sealed import SCORE_LAYOUT, SHARD_LAYOUT, Layout, Place, check_crc32, look, read_place
from runtime.errors import UserError


class SealedFile:
    """One sealed file and where its arrays lie.

    stated: what the file must say of itself; shapes: of these arrays, the number of rows apart.
    Raises UserError naming the file where it is missing, short, damaged, or another than the manifest means.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        rows: int,
        stated: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        check: bool,
    ) -> None:
        self.path, self._check = path, check
        self.places: dict[str, Place]
        self.places, attributes = look(path, layout)
        held = self.places["fake_images" if layout is SHARD_LAYOUT else "error"].shape[0]
        if held != rows:
            raise UserError(f"{path} holds {held} rows where the manifest says {rows}; make it again with `repair`.")
        for key, value in stated.items():
            if attributes.get(key) != value:
                raise UserError(
                    f"{path} is another file than the manifest means (its {key} is {attributes.get(key)}, not {value});"
                    f" restore it, or make it again with `repair`."
                )
        for name, shape in shapes.items():
            if name in self.places and self.places[name].shape[1:] != shape:
                raise UserError(
                    f"{path}: {name} are of shape {self.places[name].shape[1:]} where the manifest says {shape}; "
                    f"restore it, or make it again with `repair`."
                )

    def array(self, name: str) -> np.ndarray:
        """One array, read from the disk and checked whole."""
        values = read_place(self.path, self.places[name])
        if self._check:
            check_crc32(self.path, name, values, self.places[name])
        return values


class ShardFiles:
    """The shards of a dataset by number, in the order of the manifest; each is looked at once."""

    def __init__(self, folder: Path, manifest: Manifest, check: bool) -> None:
        self.folder, self.manifest, self.check = folder, manifest, check
        self._files: dict[int, SealedFile] = {}
        self._used: dict[int, np.ndarray] = {}
        ends = np.cumsum([entry.used for entry in manifest.shards], dtype=np.int64)
        self.starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])  # first row of each shard, and the end
        latent = manifest.content["latent_dimension"]
        self._shapes: dict[str, tuple[int, ...]] = {
            "fake_images": tuple(int(size) for size in manifest.content["image_shape"]),
            "fake_labels": manifest.labels.shape[1:],
            **({} if latent is None else {"latents": (int(latent),)}),
        }

    def __len__(self) -> int:
        return len(self.manifest.shards)

    def path(self, number: int) -> Path:
        """Where the shard lies."""
        return shard_path(self.folder, self.manifest.shards[number].name)

    def file(self, number: int) -> SealedFile:
        """The shard, which is looked at where it was not yet."""
        if number not in self._files:
            entry = self.manifest.shards[number]
            stated = {
                "settings": self.manifest.content["settings_digest"],
                "group": entry.group,
                "index": entry.index,
            }
            self._files[number] = SealedFile(
                self.path(number), SHARD_LAYOUT, entry.rows, stated, self._shapes, self.check
            )
        return self._files[number]

    def scores(self, digest: str, entry: ShardEntry) -> SealedFile:
        """A predictor's score file of one shard."""
        stated = {
            "settings": self.manifest.content["settings_digest"],
            "predictor": digest,
            "shard": entry.name,
        }
        path = score_path(self.folder, digest, entry.name)
        return SealedFile(path, SCORE_LAYOUT, entry.rows, stated, {}, self.check)

    def owners(self, rows: np.ndarray) -> np.ndarray:
        """The shard of each row of the dataset; int64."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def used_rows(self, number: int) -> np.ndarray:
        """int64: the shard's rows that belong to the dataset, in order.

        Where a unit has one label its rows stand in the order of k, so that the cut leaves the first ones.
        """
        entry = self.manifest.shards[number]
        if entry.used == entry.rows or self.single:
            return np.arange(entry.used)
        if number not in self._used:
            file = self.file(number)
            rows = self.manifest.used_rows(entry, file.array("fake_labels"), file.array("sample_index"))
            self._used[number] = rows
        return self._used[number]

    def cut(self, number: int, array: np.ndarray) -> np.ndarray:
        """The rows of an array, aligned with the shard, that belong to the dataset; a copy."""
        return np.asarray(array)[self.used_rows(number)]

    def column(self, name: str) -> np.ndarray:
        """An array of all shards, cut and joined."""
        return np.concatenate([self.cut(number, self.file(number).array(name)) for number in range(len(self))])

    @property
    def single(self) -> bool:
        """Whether a unit has one label, as those of classes have."""
        return int(self.manifest.settings["group_size"]) == 1

    def labels(self) -> np.ndarray:
        """int64 N, or float64 N (or N x d): the label asked for; where units have one label no shard is needed."""
        if not self.single:
            return self.column("fake_labels")
        groups = np.array([entry.group for entry in self.manifest.shards], dtype=np.int64)
        return np.repeat(self.manifest.labels[groups], np.diff(self.starts), axis=0)

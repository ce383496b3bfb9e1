"""How far each fake lies from its nearest training image and from the nearest other fake of its label.

A generator that has learnt its training images by heart shows as fakes nearer to them than fresh real images are; one
that has collapsed shows as fakes nearer to each other than real images are.  Both are measured in the feature space of
a filter's extractor against real images that nothing was trained on, and stored as a distance set
(`image_data.fake.distances`), which `--keep`, `inspect` and reports read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from filters.neighbours import nearest
from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.distances import set_name
from image_data.fake.manifest import NEAREST_PREFIX, ScoreEntry, ShardEntry, score_path, write_manifest
from image_data.fake.sealed import DISTANCE_LAYOUT, commit_sealed, read_sealed, seal
from image_data.sources import ImageSource
from runtime.atomic import disk_errors, remove_leftovers
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.locks import exclusive_lock
from runtime.progress import progress

SHARE = 0.01  # of fresh real images that count as too near
_BLOCK = 256
_VICINITY = 10  # continuous labels: held-out images of nearest label that a held-out image is compared with

Phi = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real images: `train` float32 N x d, and what the held-out ones say of distances."""

    train: np.ndarray
    counts: dict[Any, int]  # held-out images of each class
    calibration: dict[str, Any]

    def sparse_count(self, label: Any) -> int:
        """As many fakes of a label as there are real images to compare with."""
        return _VICINITY + 1 if not self.counts else self.counts.get(label, 0)


def score_nearest(
    folder: Path, phi: Phi, train: ImageSource, held_out: ImageSource, kind: str, compared_with: str
) -> str:
    """Add the distance set of a finished dataset, or renew it; returns its name.

    phi: uint8 N x C x H x W -> float N x d.  train: the real images that the teacher learnt from; held_out: real
    images of the same labels that nothing learnt from; kind: classes or continuous; compared_with: a digest of all of
    these.  Continues where it was stopped; sets from before an extension are removed.  Memory: the features of the
    training images and of one label (group).
    Raises UserError where the dataset is damaged or another process is writing.
    """
    folder = Path(folder)
    fakes = open_fakes(folder)  # a folder that is none gets no lock file, nor one that needs no write
    name = set_name(fakes.digest, compared_with)
    if (listed := fakes.manifest.scores.get(name)) and not _damaged(folder, name, listed):
        return name
    refusal = f"another process is writing into {folder}; wait for it or choose another folder."
    with disk_errors(folder), exclusive_lock(folder / ".lock", refusal):
        fakes = open_fakes(folder)
        name = set_name(fakes.digest, compared_with)
        listed = fakes.manifest.scores.get(name, [])
        damaged = _damaged(folder, name, listed)
        if listed and not damaged:
            return name
        for path in damaged:  # a file may be whole in itself and yet not what the manifest says
            path.unlink(missing_ok=True)
        remove_leftovers(folder / "scores" / name)
        reference = _reference(phi, train, held_out, kind)
        entries = _score_groups(fakes, phi, reference, name)
        old = [other for other in fakes.manifest.scores if other.startswith(NEAREST_PREFIX) and other != name]
        scores = {other: kept for other, kept in fakes.manifest.scores.items() if other not in old}
        write_manifest(folder, fakes.manifest.content, {**scores, name: entries}, fakes.manifest.provenance)
        for other in old:
            shutil.rmtree(folder / "scores" / other, ignore_errors=True)
    return name


def _damaged(folder: Path, name: str, listed: Sequence[ScoreEntry]) -> list[Path]:
    return [path for entry in listed if not _matches(path := score_path(folder, name, entry.name), entry.sha256)]


def _reference(phi: Phi, train: ImageSource, held_out: ImageSource, kind: str) -> Reference:
    if len(held_out) < 2 or not len(train):
        raise UserError(
            f"distances need real images: there are {len(train)} training and {len(held_out)} held-out ones; give "
            "--data with both."
        )
    features, unseen = describe(phi, train), describe(phi, held_out)
    labels = np.asarray(held_out.labels)
    to_train = nearest(unseen, features, 1)[0][:, 0]
    to_other = real_duplicates(unseen, labels, kind)
    finite = to_other[np.isfinite(to_other)]
    counts = {}
    if kind == "classes":
        counts = {int(value): int(count) for value, count in zip(*np.unique(labels, return_counts=True), strict=True)}
    calibration = {
        "share": SHARE,
        "train": len(features),
        "held_out": len(unseen),
        "per_label": min(counts.values()) if counts else _VICINITY + 1,
        "training_quantile": _quantile(to_train),
        "training_median": float(np.median(to_train)),
        "duplicate_quantile": _quantile(finite) if len(finite) else _quantile(to_train),
        "duplicate_median": float(np.median(finite)) if len(finite) else float(np.median(to_train)),
    }
    return Reference(features, counts, calibration)


def _quantile(distances: np.ndarray) -> float:
    return max(float(np.quantile(distances, SHARE)), 1e-12)  # real data may hold an image twice


def real_duplicates(features: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    """float64 N: distance of each real image to the nearest other one of its class (inf where it is alone), or of the
    images nearest to it in label.
    """
    distances = np.full(len(features), np.inf)
    if kind == "classes":
        for value in np.unique(labels):
            members = np.flatnonzero(labels == value)
            distances[members] = nearest(features[members], features[members], 1, np.arange(len(members)))[0][:, 0]
        return distances
    places = labels.reshape(len(labels), -1).astype(np.float64)
    for row in range(len(features)):
        apart = ((places - places[row]) ** 2).sum(axis=1)
        near = np.argsort(apart, kind="stable")
        near = near[near != row][:_VICINITY]
        distances[row] = nearest(features[row : row + 1], features[near], 1)[0][0, 0]
    return distances


def describe(phi: Phi, images: ImageSource, rows: np.ndarray | None = None) -> np.ndarray:
    """float32 N x d: phi of some rows (of all), in blocks."""
    chosen = np.arange(len(images)) if rows is None else rows
    blocks = [chosen[start : start + _BLOCK] for start in range(0, len(chosen), _BLOCK)]
    blocks_of = [phi(torch.from_numpy(np.array(images.images(block)))).float().cpu().numpy() for block in blocks]
    return np.concatenate(blocks_of)


def _score_groups(fakes: FakeDataset, phi: Phi, reference: Reference, name: str) -> list[ScoreEntry]:
    """Group by group of labels, whose shards stand together; files that are whole are not made again."""
    entries: list[ScoreEntry] = []
    starts = np.cumsum([0, *(entry.used for entry in fakes.manifest.shards)])
    with progress("distances", len(fakes.manifest.shards)) as bar:
        for _, members in groupby(enumerate(fakes.manifest.shards), key=lambda item: item[1].group):
            group = list(members)
            paths = [score_path(fakes.path, name, entry.name) for _, entry in group]
            attributes = _attributes(fakes, reference)
            if not all(_whole(path, attributes, entry) for path, (_, entry) in zip(paths, group, strict=True)):
                rows = np.arange(starts[group[0][0]], starts[group[-1][0] + 1])
                columns = group_distances(
                    describe(phi, fakes.view(), rows), fakes.labels[rows], reference, first_row=int(rows[0])
                )
                done = 0
                for path, (number, entry) in zip(paths, group, strict=True):
                    mine = {key: value[done : done + entry.used] for key, value in columns.items()}
                    commit_sealed(path, seal(_aligned(fakes, number, entry, mine), attributes))
                    done += entry.used
            entries += [
                ScoreEntry(entry.name, file_sha256(path)) for path, (_, entry) in zip(paths, group, strict=True)
            ]
            bar.advance(len(group))
    return entries


def group_distances(
    features: np.ndarray, labels: np.ndarray, reference: Reference, first_row: int = 0
) -> dict[str, np.ndarray]:
    """The columns of `image_data.fake.distances` for fakes of some labels, which stand together in the dataset.

    features: float32 n x d; labels: n (or n x d); rows are counted from `first_row`.
    """
    to_train, train_rows = nearest(features, reference.train, 1)
    duplicate, sparse = np.full(len(features), np.inf), np.full(len(features), np.nan)
    other = np.full(len(features), -1, dtype=np.int64)
    values, label_of_row = np.unique(labels, axis=0, return_inverse=True)
    for place, value in enumerate(values):
        mine = np.flatnonzero(label_of_row.reshape(len(labels)) == place)
        distances, rows = nearest(features[mine], features[mine], 1, np.arange(len(mine)))
        duplicate[mine] = distances[:, 0]
        other[mine] = np.where(rows[:, 0] < 0, -1, first_row + mine[rows[:, 0]])
        few = mine[: reference.sparse_count(int(value) if reference.counts else value)]
        if len(few) > 1:
            sparse[few] = nearest(features[few], features[few], 1, np.arange(len(few)))[0][:, 0]
    return {
        "training_distance": to_train[:, 0].astype(np.float32),
        "training_row": train_rows[:, 0],
        "duplicate_distance": duplicate.astype(np.float32),
        "duplicate_row": other,
        "sparse_distance": sparse.astype(np.float32),
    }


def _aligned(
    fakes: FakeDataset, number: int, entry: ShardEntry, columns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """As many rows as the shard has; those past the cut belong to no dataset and hold inf and -1."""
    used = fakes.cut(number, np.arange(entry.rows))
    distances = {}
    for name, values in columns.items():
        whole = np.full(entry.rows, -1 if values.dtype == np.int64 else np.inf, dtype=values.dtype)
        whole[used] = values
        distances[name] = whole
    return distances


def _attributes(fakes: FakeDataset, reference: Reference) -> dict[str, Any]:
    calibration = json.dumps(reference.calibration, sort_keys=True)
    return {"format_version": 1, "fakes": fakes.digest, "calibration": calibration}


def _whole(path: Path, attributes: dict[str, Any], entry: ShardEntry) -> bool:
    if not path.is_file():
        return False
    try:
        return len(read_sealed(path, DISTANCE_LAYOUT, attributes)["training_row"]) == entry.rows
    except UserError:
        return False


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256

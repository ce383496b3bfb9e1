"""Distance sets: how far each fake lies from the nearest training image and from the nearest other fake of its label.

They are sealed files beside the score sets, row-aligned with the shards, listed in the manifest under a name that
begins with `nearest-`, and so checked by `verify` and continued or renewed by `score --nearest`.  A set belongs to the
very rows that the dataset had: after an extension it no longer counts, and is computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from image_data.fake.manifest import NEAREST_PREFIX, score_path
from image_data.fake.sealed import DISTANCE_LAYOUT, read_sealed, sealed_attributes
from runtime.errors import UserError
from runtime.safe_files import parse_json

if TYPE_CHECKING:
    from image_data.fake.dataset import FakeDataset


@dataclass(frozen=True, eq=False)
class Distances:
    """Of each row of the dataset; distances are Euclidean, in the feature space of the extractor that the set names.

    `training_distance`, `training_row`: the nearest real training image (its row among them).
    `duplicate_distance`, `duplicate_row`: the nearest other fake of the same label (its row here); inf and -1 where a
    label has one fake.  `sparse_distance`: the same among the first `calibration["per_label"]` fakes of the label, as
    many as there are real images to compare with; NaN for the rows past these.
    `calibration`: what the same distances are between real images that nothing was trained on (`nearest_finding`).
    """

    name: str
    training_distance: np.ndarray
    training_row: np.ndarray
    duplicate_distance: np.ndarray
    duplicate_row: np.ndarray
    sparse_distance: np.ndarray
    calibration: dict[str, Any]

    @property
    def memorisation(self) -> np.ndarray:
        """float64 N: `training_distance` in units of the 1 % quantile of held-out real images; below 1: suspicious."""
        return self.training_distance.astype(np.float64) / self.calibration["training_quantile"]

    @property
    def duplicate(self) -> np.ndarray:
        """float64 N: `duplicate_distance` in units of the 1 % quantile between real images of a label."""
        return self.duplicate_distance.astype(np.float64) / self.calibration["duplicate_quantile"]


def distance_sets(fakes: FakeDataset) -> list[str]:
    """Names of the distance sets of the dataset as it is now; those from before an extension do not count."""
    return sorted(name for name in fakes.manifest.scores if name.startswith(set_name(fakes.digest, "")))


def set_name(fakes_digest: str, compared_with: str) -> str:
    """A distance set is named after the dataset and after what it was compared with (any digest)."""
    return f"{NEAREST_PREFIX}{fakes_digest[:16]}-{compared_with[:16]}"


def read_distances(fakes: FakeDataset) -> Distances:
    """The dataset's distance set; UserError where there is none for the rows it has now, or one is damaged."""
    names = distance_sets(fakes)
    if not names:
        raise UserError(f"{fakes.path} has no distances to its training images; run `score --nearest` on it first.")
    name = names[-1]
    columns: dict[str, list[np.ndarray]] = {column: [] for column in DISTANCE_LAYOUT}
    calibration: dict[str, Any] = {}
    listed = {entry.name for entry in fakes.manifest.scores[name]}
    for number, entry in enumerate(fakes.manifest.shards):
        path = score_path(fakes.path, name, entry.name)
        if entry.name not in listed:
            raise UserError(f"{path} is not there yet; run `score --nearest` again.")
        arrays, attributes = read_sealed(path, DISTANCE_LAYOUT, {"fakes": fakes.digest}), sealed_attributes(path)
        if len(arrays["training_distance"]) != entry.rows:
            raise UserError(f"{path} holds another number of rows than its shard; run `score --nearest` again.")
        calibration = parse_json(
            str(attributes.get("calibration")), f"the calibration in {path}", "run `score --nearest` again"
        )
        for column, pieces in columns.items():
            pieces.append(fakes.cut(number, arrays[column]))
    whole = {column: np.concatenate(pieces) for column, pieces in columns.items()}
    return Distances(name=name, calibration=calibration, **whole)


def nearest_finding(fakes: FakeDataset, worst: int = 16) -> dict[str, Any] | None:
    """Memorisation and near-duplicates as JSON, or None where the dataset has no distance set.

    `memorised_share`: fakes nearer to a training image than 99 % of real images that were not trained on are (about
    1 % is what fresh real images would have).  `duplicate_share`: fakes nearer to another fake of their label than
    99 % of real images are to another real one; it grows with the number of fakes, so `duplicate_share_sparse` says
    the same among as many fakes of each label as there are real ones, and is the number to compare with 1 %.
    `by_label` names each label's shares; `nearest_pairs` are the fakes nearest to a training image, as (row, training
    row, distance in units of the 1 % quantile).
    """
    if not distance_sets(fakes):
        return None
    distances = read_distances(fakes)
    memorisation, duplicate = distances.memorisation, distances.duplicate
    sparse = distances.sparse_distance.astype(np.float64) / distances.calibration["duplicate_quantile"]
    values, label_of_row = np.unique(np.asarray(fakes.labels), axis=0, return_inverse=True)
    label_of_row = label_of_row.reshape(len(fakes))
    by_label = [
        {"label": values[group].tolist(), **_shares(memorisation[members], duplicate[members], sparse[members])}
        for group in range(len(values))
        for members in [np.flatnonzero(label_of_row == group)]
    ]
    nearest = np.argsort(memorisation, kind="stable")[:worst]
    return {
        "set": distances.name,
        **_shares(memorisation, duplicate, sparse),
        "memorisation_distance": _quantiles(memorisation),
        "duplicate_distance": _quantiles(duplicate),
        "calibration": distances.calibration,
        "by_label": by_label,
        "nearest_pairs": [
            [int(row), int(distances.training_row[row]), round(float(memorisation[row]), 4)] for row in nearest
        ],
    }


def _shares(memorisation: np.ndarray, duplicate: np.ndarray, sparse: np.ndarray) -> dict[str, float]:
    compared = sparse[~np.isnan(sparse)]
    return {
        "memorised_share": float((memorisation < 1.0).mean()),
        "duplicate_share": float((duplicate < 1.0).mean()),
        "duplicate_share_sparse": float((compared < 1.0).mean()) if len(compared) else 0.0,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    return {f"q{share:g}": float(np.quantile(finite, share)) for share in (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)}

"""How different the stored images of a label are from one another, from a small sample and without any network.

It stands in for the distance set of `score --nearest` where there is none: a label on which the teacher has collapsed
shows as near-identical images.  Distances are root mean squares over the pixels, in grey levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from image_data.fake.dataset import FakeDataset
from image_data.fake.describe import rows_by_label

_IMAGES_IN_ALL, _MOST, _LEAST = 4096, 32, 8  # images read: about so many, and of each label at most and at least
_LABELS = 1000  # with more labels, evenly spaced ones are looked at
NEAR_IDENTICAL = 0.1  # of the typical distance in a label; real digits' nearest neighbours lie at 0.4 to 0.6 of it


def label_variety(fakes: FakeDataset) -> dict[str, Any]:
    """JSON: `typical_distance` (median over labels of the mean distance between two images of a label) and `by_label`:
    {label, images looked at, mean_distance, near_identical_share: of those with another one nearer than a tenth of the
    typical distance}.  Reads at most some thousand images.
    """
    labels, rows = fakes.manifest.labels.tolist(), rows_by_label(fakes)
    shown = np.unique(np.linspace(0, len(labels) - 1, min(_LABELS, len(labels))).round().astype(int))
    count = int(np.clip(_IMAGES_IN_ALL // len(shown), _LEAST, _MOST))
    measured = [(index, *distances(fakes.images(spaced(rows[index], count)))) for index in shown.tolist()]
    means = {index: float(pairs.mean()) for index, pairs, _ in measured if len(pairs)}
    typical = float(np.median(list(means.values()))) if means else 0.0
    by_label = [
        {
            "label": labels[index],
            "images": len(nearest),
            "mean_distance": means[index],
            "near_identical_share": float((nearest <= NEAR_IDENTICAL * typical).mean()),
        }
        for index, _, nearest in measured
        if index in means
    ]
    return {"typical_distance": typical, "by_label": by_label}


def spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly spaced over their order; all where there are no more."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def distances(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 n x ... -> (float64 distances of all pairs, float64 n of each image to its nearest other one)."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    if len(flat) < 2:
        return np.zeros(0), np.zeros(0)
    squares = (flat**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2.0 * flat @ flat.T, 0.0) / flat.shape[1])
    pairs = apart[np.triu_indices(len(flat), 1)]
    np.fill_diagonal(apart, np.inf)
    return pairs, apart.min(axis=1)

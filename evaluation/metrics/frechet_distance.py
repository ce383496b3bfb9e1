"""The Fréchet distance of two sets of features, in float64 and without SciPy; of each class, too.

Sets that are too small for the distance to mean anything are refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from evaluation.features import as_float64
from evaluation.metrics.registry import METRICS, ImageSets, Metric, Row
from evaluation.table import Column
from runtime.errors import UserError


@METRICS.register("frechet_distance")
class FrechetDistance(Metric):
    """`metric` is its name by the feature network: FID, FD-inception or FD-judge.

    `score` is a float, or None with `score_refused`; `per_class` is {name: {score, refused, fake, real}}, or None for
    continuous labels.
    """

    columns = {"score": Column("Fréchet distance", decimals=4, better="lower", bars=True)}
    explanation = (
        "The Fréchet distance between the features of these images and those of real ones, zero for equal sets. It has "
        "no error bar and grows where there are fewer images: compare sets of one size only."
    )
    needs = frozenset({"features", "real"})

    def smallest(self, feature_width: int) -> int:
        return feature_width + 1

    def too_few(self, images: int, smallest: int) -> str:
        return _too_few(images, smallest - 1)

    def measure(self, sets: ImageSets) -> dict[str, Any]:
        return self._row(sets, frechet_distance(*sets.features), None)

    def refused(self, sets: ImageSets, reason: str) -> dict[str, Any]:
        return self._row(sets, None, reason)

    def protocol(self, sets: ImageSets) -> dict[str, Any]:
        return {"metric": sets.network.metric_name}

    def titled(self, rows: Sequence[Row]) -> Mapping[str, Column]:
        name = " or ".join(dict.fromkeys(row["metric"] for row in rows))
        return {"score": replace(self.columns["score"], name=name)} if name else self.columns

    def _row(self, sets: ImageSets, score: float | None, reason: str | None) -> dict[str, Any]:
        entries = {"metric": sets.network.metric_name, "score": score, "score_refused": reason}
        return {**entries, "per_class": _per_class(sets)}


def frechet_distance(first: np.ndarray | torch.Tensor, second: np.ndarray | torch.Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of N x d and M x d features: Heusel et al. 2017, equation 6.

    The trace of the root is the sum of the singular values of S1^(1/2) S2^(1/2), which are the roots of the
    eigenvalues of S1^(1/2) S2 S1^(1/2) (Dowson and Landau 1982).  Both roots come from symmetric eigen-decompositions,
    so nothing can turn complex, and the singular values keep the digits that squaring would lose.

    Raises UserError where a set holds no more images than the feature has dimensions: its covariance is singular
    then and the value follows the number of images more than their looks.
    """
    x, y = as_float64(first), as_float64(second)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    if min(len(x), len(y)) <= x.shape[1]:
        raise UserError(_too_few(min(len(x), len(y)), x.shape[1]))
    (m1, s1), (m2, s2) = _moments(x), _moments(y)
    step = m1 - m2
    singular = np.linalg.svd(_root(s1) @ _root(s2), compute_uv=False)
    distance = float(step @ step + np.trace(s1) + np.trace(s2) - 2.0 * singular.sum())
    return max(distance, 0.0)  # rounding may leave -1e-12 for equal sets


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean d and unbiased covariance d x d."""
    mean = values.mean(axis=0)
    centred = values - mean
    return mean, centred.T @ centred / (len(values) - 1)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _too_few(images: int, width: int) -> str:
    return (
        f"a Fréchet distance over features of {width} dimensions needs more than {width} images in each set, and the "
        f"smaller set has {images}; give more images, or read the kernel distance (KID), which has no such bound."
    )


def _per_class(sets: ImageSets) -> dict[str, Any] | None:
    if sets.label_space.kind != "classes":
        return None
    entries: dict[str, Any] = {}
    for index, name in enumerate(sets.label_space.to_json()["names"]):
        fake, real = (
            features[np.asarray(source.labels) == index]
            for features, source in zip(sets.features, (sets.fake, sets.real), strict=True)
        )
        images, width = min(len(fake), len(real)), fake.shape[1]
        refused = None if images > width else _too_few(images, width)
        score = None if refused else frechet_distance(fake, real)
        entries[name] = {"score": score, "refused": refused, "fake": len(fake), "real": len(real)}
    return entries

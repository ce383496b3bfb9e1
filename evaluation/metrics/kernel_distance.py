"""The kernel distance (KID): unbiased at any number of images, and with an error bar.

KID is the squared maximum mean discrepancy under the cubic polynomial kernel (Binkowski et al. 2018, section 3.3).
It may be slightly negative when the two sets are alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from evaluation.features import as_float64
from evaluation.metrics.registry import METRICS, PAIRWISE_IMAGES, ImageSets, Metric
from evaluation.table import Column
from runtime.errors import UserError

_CHUNK_ROWS = 1024
_SMALLEST = 3  # the jackknife leaves one image out, and an unbiased estimate needs two


@METRICS.register("kernel_distance")
class KernelDistanceMetric(Metric):
    """`kernel_distance` is {mean, standard_error, images}, over at most 5,000 images of each set."""

    columns = {"kernel_distance": Column("KID", "× 10⁻³", decimals=2, scale=1e3, better="lower")}
    explanation = (
        "Kernel distance to the real images, unbiased at any number of images: near zero, and sometimes below, where "
        "both sets are alike."
    )
    needs = frozenset({"features", "real"})
    error_bar = "standard error over images (jackknife)"

    def smallest(self, feature_width: int) -> int:
        return _SMALLEST

    def measure(self, sets: ImageSets) -> dict[str, Any]:
        fake, real = sets.pairwise_features
        images = {"fake": len(fake), "real": len(real)}
        return {"kernel_distance": {**kernel_distance(fake, real)._asdict(), "images": images}}

    def protocol(self, sets: ImageSets) -> dict[str, Any]:
        return {"pairwise_images": PAIRWISE_IMAGES, "seed": sets.seed}


class KernelDistance(NamedTuple):
    """The estimate and its standard error."""

    mean: float
    standard_error: float


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """k(x, y) = (x.y / d + 1)^3 for every pair: float64 N x d, M x d -> N x M."""
    product = a @ b.T / a.shape[1] + 1.0
    return product * product * product


def kernel_distance(
    first: np.ndarray | torch.Tensor, second: np.ndarray | torch.Tensor, *, chunk_rows: int = _CHUNK_ROWS
) -> KernelDistance:
    """The unbiased estimate over all pairs of N x d and M x d features, and its jackknife standard error.

    Gretton et al. 2012, equation 3.  Leaving out one image changes only that image's row sums, so the jackknife
    costs nothing extra; for sets that are alike it errs on the wide side.  Kernels are summed in blocks of
    `chunk_rows` x `chunk_rows`; memory does not grow with N.
    """
    x, y = as_float64(first), as_float64(second)
    m, n = len(x), len(y)
    if min(m, n) < _SMALLEST:
        raise UserError(f"a kernel distance needs 3 or more images in each set, not {m} and {n}; give more images.")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    within_x = _row_sums(x, x, chunk_rows)[0] - _self_kernel(x)  # an image is no pair with itself
    within_y = _row_sums(y, y, chunk_rows)[0] - _self_kernel(y)
    across_x, across_y = _row_sums(x, y, chunk_rows)
    xx, yy, xy = within_x.sum(), within_y.sum(), across_x.sum()
    mean = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2.0 * xy / (m * n)
    # The same estimate without image i, for each i: its row sum stands in xx twice, as (i, j) and as (j, i).
    without_x = (xx - 2.0 * within_x) / ((m - 1) * (m - 2)) - 2.0 * (xy - across_x) / ((m - 1) * n)
    without_y = (yy - 2.0 * within_y) / ((n - 1) * (n - 2)) - 2.0 * (xy - across_y) / (m * (n - 1))
    variance = (m - 1) * without_x.var() + (n - 1) * without_y.var()
    return KernelDistance(float(mean), float(np.sqrt(variance)))


def _self_kernel(x: np.ndarray) -> np.ndarray:
    return ((x * x).sum(axis=1) / x.shape[1] + 1.0) ** 3


def _row_sums(x: np.ndarray, y: np.ndarray, chunk_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel over y for each x, and over x for each y."""
    over_y, over_x = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), chunk_rows):
        for j in range(0, len(y), chunk_rows):
            block = polynomial_kernel(x[i : i + chunk_rows], y[j : j + chunk_rows])
            over_y[i : i + chunk_rows] += block.sum(axis=1)
            over_x[j : j + chunk_rows] += block.sum(axis=0)
    return over_y, over_x

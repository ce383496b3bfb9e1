"""The kernel distance (KID): unbiased at any number of images, and with an error bar.

KID is the squared maximum mean discrepancy under the cubic polynomial kernel (Binkowski et al. 2018, section 3.3).
It may be slightly negative when the two sets are alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from runtime.errors import UserError
from training.finite import require_finite

_CHUNK_ROWS = 1024


class KernelDistance(NamedTuple):
    """The estimate and its standard error (of `kernel_distance`) or spread (of `kernel_distance_of_subsets`)."""

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
    x, y = _as_float64(first), _as_float64(second)
    m, n = len(x), len(y)
    if min(m, n) < 3:
        raise UserError(f"a kernel distance needs 3 or more images in each set, not {m} and {n}; give more images.")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    within_x = _row_sums(x, x, chunk_rows) - _self_kernel(x)
    within_y = _row_sums(y, y, chunk_rows) - _self_kernel(y)
    across_x, across_y = _both_sums(x, y, chunk_rows)
    xx, yy, xy = within_x.sum(), within_y.sum(), across_x.sum()
    mean = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2.0 * xy / (m * n)
    without_x = (xx - 2.0 * within_x) / ((m - 1) * (m - 2)) - 2.0 * (xy - across_x) / ((m - 1) * n)
    without_y = (yy - 2.0 * within_y) / ((n - 1) * (n - 2)) - 2.0 * (xy - across_y) / (m * (n - 1))
    variance = (m - 1) * without_x.var() + (n - 1) * without_y.var()
    return KernelDistance(float(mean), float(np.sqrt(variance)))


def kernel_distance_of_subsets(
    first: np.ndarray | torch.Tensor,
    second: np.ndarray | torch.Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """The published protocol: mean and standard deviation over random subsets (not a standard error of the mean).

    The draws and defaults are those of torch-fidelity, so that the numbers can be compared.
    """
    x, y = _as_float64(first), _as_float64(second)
    if subset_size > min(len(x), len(y)):
        raise UserError(
            f"KID subsets of {subset_size} images cannot be drawn from sets of {len(x)} and {len(y)}; "
            "lower the subset size or give more images."
        )
    draws = np.random.RandomState(seed)
    found = np.empty(subsets)
    for index in range(subsets):
        a = x[draws.choice(len(x), subset_size, replace=False)]
        b = y[draws.choice(len(y), subset_size, replace=False)]
        found[index] = kernel_distance(a, b).mean
    return KernelDistance(float(found.mean()), float(found.std()))


def _self_kernel(x: np.ndarray) -> np.ndarray:
    return ((x * x).sum(axis=1) / x.shape[1] + 1.0) ** 3


def _row_sums(x: np.ndarray, y: np.ndarray, chunk_rows: int) -> np.ndarray:
    return _both_sums(x, y, chunk_rows)[0]


def _both_sums(x: np.ndarray, y: np.ndarray, chunk_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel over y for each x, and over x for each y."""
    over_y, over_x = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), chunk_rows):
        for j in range(0, len(y), chunk_rows):
            block = polynomial_kernel(x[i : i + chunk_rows], y[j : j + chunk_rows])
            over_y[i : i + chunk_rows] += block.sum(axis=1)
            over_x[j : j + chunk_rows] += block.sum(axis=0)
    return over_y, over_x


def _as_float64(features: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().numpy()
    values = np.asarray(features, dtype=np.float64)
    require_finite(values, "features")
    return values

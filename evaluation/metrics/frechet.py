"""The Fréchet distance of two sets of features, in float64 and without SciPy.

Moments are streamed, so a set of any size needs one d x d matrix of memory, and moments of parts can be merged.  Sets
that are too small for the distance to mean anything are refused, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from runtime.errors import UserError


@dataclass
class Moments:
    """Count, mean and summed outer products of the deviations: all that the Fréchet distance reads.

    `mean` is float64 d, `scatter` float64 d x d.  Updates and merges use the pairwise formula of Chan, Golub and
    LeVeque (1983), which does not lose digits when the mean is large.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> Moments:
        """No features yet, of `width` dimensions."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: np.ndarray | torch.Tensor) -> Moments:
        """The moments of N x d features."""
        values = _as_float64(features)
        if not len(values):
            return cls.empty(values.shape[1])
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    @property
    def width(self) -> int:
        """Dimensions of a feature."""
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, float64 d x d; needs two features or more."""
        if self.count < 2:
            raise UserError(f"a covariance needs 2 or more images, and there are {self.count}; give more images.")
        return self.scatter / (self.count - 1)

    def update(self, features: np.ndarray | torch.Tensor) -> None:
        """Take in a batch of N x d features."""
        merged = self.merged(Moments.of(features))
        self.count, self.mean, self.scatter = merged.count, merged.mean, merged.scatter

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        if self.width != other.width:
            raise ValueError(f"moments of {self.width} and {other.width} dimensions cannot be merged")
        count = self.count + other.count
        if not count:
            return Moments.empty(self.width)
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, scatter)


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)): Heusel et al. 2017, equation 6 (Dowson and Landau 1982).

    The trace of the root is the sum of the singular values of S1^(1/2) S2^(1/2), which are the roots of the
    eigenvalues of S1^(1/2) S2 S1^(1/2).  Both roots come from symmetric eigen-decompositions, so nothing can turn
    complex, and the singular values keep the digits that squaring would lose.

    Raises UserError where a set holds no more images than the feature has dimensions: its covariance is singular
    then and the value follows the number of images more than their looks.
    """
    reason = refusal(first.count, second.count, first.width)
    if reason:
        raise UserError(reason)
    if first.width != second.width:
        raise ValueError(f"features of {first.width} and {second.width} dimensions cannot be compared")
    step = first.mean - second.mean
    s1, s2 = first.covariance, second.covariance
    singular = np.linalg.svd(_root(s1) @ _root(s2), compute_uv=False)
    distance = float(step @ step + np.trace(s1) + np.trace(s2) - 2.0 * singular.sum())
    return max(distance, 0.0)  # rounding may leave -1e-12 for equal sets


def refusal(count: int, other_count: int, width: int) -> str | None:
    """Why a Fréchet distance of so many images makes no sense, or None where it does."""
    smaller = min(count, other_count)
    if smaller > width:
        return None
    return (
        f"a Fréchet distance over features of {width} dimensions needs more than {width} images in each set, and the "
        f"smaller set has {smaller}; give more images, or read the kernel distance (KID), which has no such bound."
    )


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _as_float64(features: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().numpy()
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"features must be N x d, not of shape {values.shape}")
    if not np.isfinite(values).all():
        raise UserError("a feature is not a finite number; the feature network or an image is damaged.")
    return values

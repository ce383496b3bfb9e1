"""A mean over two crossed samples, e.g. of paired differences d[s, i] over training seeds s and images i.

Seeds and images are both drawn by chance, and another search would have others of both.  In the model
d[s, i] = mean + a[s] + b[i] + c[s, i] the mean of S x I values has the variance
var(a) / S + var(b) / I + var(c) / (S I) (two-way random effects; Searle, Casella and McCulloch 1992, chapter 4).  With

    V_S  = var over s of the seeds' means / S,      which expects var(a) / S + var(c) / (S I)
    V_I  = var over i of the images' means / I,     which expects var(b) / I + var(c) / (S I)
    V_SI = var of what neither explains / (S I),    which expects var(c) / (S I)

the estimate is V = max(V_S, V_SI) + max(V_I, V_SI) - V_SI: V_SI is in both of the others, and a V_S or V_I that came
out below it by chance (all seeds with equally many errors, say) counts as V_SI.  Its degrees of freedom are
min(S, I) - 1, of the part that is known worst: for sums of variances Student's t with the fewer degrees is never too
narrow (Mickey and Brown 1966, Ann. Math. Stat. 37, 639-642).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.finite import require_finite


@dataclass(frozen=True)
class CrossedMean:
    """Mean of seeds x images values; standard_error: None where one seed or one image shows no spread."""

    mean: float
    standard_error: float | None
    seeds: int
    images: int

    @property
    def degrees(self) -> int:
        """Of freedom, of the standard error."""
        return min(self.seeds, self.images) - 1

    def half(self, tail: float) -> float | None:
        """Half of the interval that leaves out `tail` on each side, by Student's t; None without a standard error."""
        return None if self.standard_error is None else _quantile(1.0 - tail, self.degrees) * self.standard_error


@lru_cache
def _quantile(probability: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, degrees))


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """Of seeds x images numbers.  UserError where one is no finite number."""
    values = np.asarray(values, dtype=np.float64)
    require_finite(values, "differences")
    seeds, images = values.shape
    mean = float(values.mean())
    if min(seeds, images) < 2:
        return CrossedMean(mean, None, seeds, images)
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    rest = values - by_seed[:, None] - by_image[None, :] + mean
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    of_images = float(by_image.var(ddof=1)) / images
    of_rest = float(np.square(rest).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    variance = max(of_seeds, of_rest) + max(of_images, of_rest) - of_rest
    return CrossedMean(mean, math.sqrt(variance), seeds, images)

"""A distribution in 101 numbers: its percentiles, small enough for a card and good enough for a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SHARES = np.linspace(0.0, 1.0, 101)


def percentiles(values: np.ndarray) -> list[float]:
    """The 0th to 100th percentile (linear interpolation), to five significant digits; [] for no values.

    values: float, any shape; those that are not finite are left out.
    """
    finite = np.asarray(values, dtype=np.float64).reshape(-1)
    finite = finite[np.isfinite(finite)]
    return [float(f"{value:.5g}") for value in np.quantile(finite, _SHARES)] if len(finite) else []


def values_from(percentiles: Sequence[float], count: int = 2000) -> np.ndarray:
    """float64 `count` values with these percentiles, evenly spread between them; none for no percentiles.

    The tail above the 99th percentile is not known: nine tenths of it are put there, and one tenth at the maximum.
    """
    if not len(percentiles):
        return np.zeros(0)
    known = np.asarray(percentiles, dtype=np.float64)
    shares = (np.arange(count) + 0.5) / count
    values = np.interp(shares, _SHARES, known)
    return np.where(shares > 0.999, known[-1], np.minimum(values, known[-2]))

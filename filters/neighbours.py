"""Nearest neighbours by faiss: exhaustive, in one thread, with distances that do not carry the search's rounding.

faiss finds candidates by |x|^2 - 2 x.y + |y|^2 in float32, which cannot tell a near-copy from a copy; so a few more
candidates than asked for are taken, and their distances are computed again from the differences in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from training.finite import require_finite

_SPARE = 4  # candidates beyond those asked for
_BLOCK = 1024  # queries at once


def nearest(
    queries: np.ndarray, references: np.ndarray, count: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(Euclidean distances float64 N x count, rows of `references` int64 N x count), nearest first.

    queries: float32 N x d; references: float32 M x d.  own: int64 N, a row of `references` that is no neighbour of
    this query (itself).  Where there are fewer neighbours, distances are inf and rows -1; ties go to the earlier row.
    """
    require_finite(queries, "features")
    require_finite(references, "features")
    wanted = min(count + (own is not None) + _SPARE, len(references))
    distances = np.full((len(queries), count), np.inf)
    rows = np.full((len(queries), count), -1, dtype=np.int64)
    if not wanted:
        return distances, rows
    sources = np.ascontiguousarray(references, dtype=np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(queries)))
        asked = np.ascontiguousarray(queries[block], dtype=np.float32)
        candidates = _candidates(asked, sources, wanted)
        exact = np.sqrt(((asked[:, None].astype(np.float64) - sources[candidates]) ** 2).sum(axis=2))
        if own is not None:
            exact[candidates == own[block, None]] = np.inf
        order = np.lexsort((candidates, exact), axis=1)[:, :count]
        best = np.take_along_axis(exact, order, axis=1)
        distances[block, : order.shape[1]] = best
        rows[block, : order.shape[1]] = np.where(np.isinf(best), -1, np.take_along_axis(candidates, order, axis=1))
    return distances, rows


def _candidates(queries: np.ndarray, references: np.ndarray, count: int) -> np.ndarray:
    import faiss

    with _one_thread():
        return np.asarray(faiss.knn(queries, references, count)[1], dtype=np.int64)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of a sum must not depend on the machine's cores; faiss's own setting is restored."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

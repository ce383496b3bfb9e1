"""A fake dataset in numbers, for `inspect` and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.distances import nearest_finding
from image_data.fake.manifest import planned_counts
from image_data.percentiles import percentiles

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_RATIOS_KEPT = 100_000  # candidates whose ratios give the percentiles; means are over all of them


def describe_fakes(path: Path) -> dict[str, Any]:
    """JSON: digests, counts for each label, acceptance, clipped mass, quantiles of ratio and error, bytes on disk.

    `candidates` counts all that were drawn by the units of the dataset, the pilot not included; `clipped_mass` is the
    share of the ratios' sum that lies above the ceilings.  `candidate_ratio` is the density ratio over all candidates
    (None without a filter): mean, `spread` (standard deviation / mean) and percentiles; `density_ratio` that over the
    accepted rows.  Labels come in the order in which they were planned.
    """
    fakes = path if isinstance(path, FakeDataset) else open_fakes(path)
    content = fakes.manifest.content
    drawn = _candidates(fakes)
    ratio = fakes.density_ratio
    described: dict[str, Any] = {
        "path": str(fakes.path),
        "digest": fakes.digest,
        "images": len(fakes),
        "image_shape": list(fakes.image_shape),
        "label_space": content["label_space"],
        "labels": len(fakes.manifest.labels),
        "per_label": content["per_label"],
        "rejects": bool(content["needs_ratio"]),
        "candidates": drawn["candidates"],
        "accepted": drawn["accepted"],
        "acceptance_rate": drawn["accepted"] / max(1, drawn["candidates"]),
        "clipped_mass": drawn["clipped_mass"],
        "by_label": drawn["by_label"],
        "candidate_ratio": drawn["ratio"],
        "density_ratio": None if ratio is None else _quantiles(ratio),
        "scores": {digest: _errors(fakes, digest) for digest in complete_score_sets(fakes)},
        "nearest": nearest_finding(fakes),
        "latents": fakes.has_latents,
        "shards": len(fakes.manifest.shards),
        "bytes_on_disk": sum(file.stat().st_size for file in fakes.path.rglob("*") if file.is_file()),
        "parents": fakes.manifest.parents,
        "settings": content["settings"],
        "provenance": fakes.manifest.provenance,
    }
    return described


def complete_score_sets(fakes: FakeDataset) -> list[str]:
    """Digests of the predictors that have scored every shard, the sampling run's own first."""
    wanted = {entry.name for entry in fakes.manifest.shards}
    sets = {name: fakes.manifest.scores[name] for name in fakes.score_sets()}
    whole = [name for name, entries in sets.items() if {entry.name for entry in entries} >= wanted]
    own = fakes.manifest.settings.get("predictor_digest")
    return sorted(whole, key=lambda name: name != own)


def label_of_rows(fakes: FakeDataset) -> np.ndarray:
    """int64 N: which of the planned labels (its place in the manifest) each row was asked for."""
    planned, asked = fakes.manifest.labels, np.asarray(fakes.labels)
    if asked.ndim == 1:
        order = np.argsort(planned, kind="stable")
        return order[np.searchsorted(planned[order], asked).clip(max=len(order) - 1)]
    both = np.unique(np.concatenate([planned, asked]), axis=0, return_inverse=True)[1].reshape(-1)
    place = np.zeros(int(both.max(initial=0)) + 1, dtype=np.int64)
    place[both[: len(planned)]] = np.arange(len(planned))
    return place[both[len(planned) :]]


def rows_by_label(fakes: FakeDataset) -> list[np.ndarray]:
    """For each planned label its rows, ascending."""
    owner = label_of_rows(fakes)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(fakes.manifest.labels)))
    return np.split(order, ends[:-1])


def _errors(fakes: FakeDataset, digest: str) -> dict[str, Any]:
    """Quantiles of a predictor's error over all rows, and over the rows of each label."""
    error = fakes.errors(digest)
    labels = fakes.manifest.labels.tolist()
    by_label = [
        {"label": label, **_quantiles(error[rows])} for label, rows in zip(labels, rows_by_label(fakes), strict=True)
    ]
    return {"error": _quantiles(error), "by_label": by_label}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    quantiles = np.quantile(values.astype(np.float64), _QUANTILES)
    return {
        "mean": float(values.mean(dtype=np.float64)),
        **{f"q{q:g}": float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)},
    }


class _Sums:
    """What the ledgers add up to, label by label; float64 or int64 L each."""

    def __init__(self, labels: int) -> None:
        self.drawn, self.accepted = np.zeros(labels, dtype=np.int64), np.zeros(labels, dtype=np.int64)
        self.above, self.total, self.squares = np.zeros(labels), np.zeros(labels), np.zeros(labels)


def _candidates(fakes: FakeDataset) -> dict[str, Any]:
    """Counts, clipped mass and the ratios' distribution, one pass over the ledgers (constant memory)."""
    content, labels = fakes.manifest.content, fakes.manifest.labels
    group_size = int(content["settings"]["group_size"])
    bounded = content["ceilings"] is not None and not content["settings"]["running_max"]
    ceilings = np.full(len(labels), np.inf)
    if content["ceilings"] is not None:
        ceilings = np.asarray(content["ceilings"], dtype=np.float64)
    sums, kept, seen = _Sums(len(labels)), [], 0
    step = max(1, sum(entry.candidates for entry in fakes.manifest.shards) // _RATIOS_KEPT)
    for entry, unit in zip(fakes.manifest.shards, fakes.ledger(), strict=True):
        first = entry.group * group_size
        counts = fakes.manifest.candidate_counts(entry)
        size = len(counts)
        here = slice(first, first + size)
        place = np.repeat(np.arange(size), counts)
        ratio = unit.r.astype(np.float64)
        sums.drawn[here] += counts
        sums.accepted[here] += np.bincount(place[unit.accepted], minlength=size)
        sums.total[here] += np.bincount(place, ratio, size)
        sums.squares[here] += np.bincount(place, ratio**2, size)
        if bounded:  # a running maximum clips nothing
            sums.above[here] += np.bincount(place, np.maximum(ratio - ceilings[here][place], 0.0), size)
        kept.append(ratio[-seen % step :: step])
        seen += len(ratio)
    return {
        "candidates": int(sums.drawn.sum()),
        "accepted": int(sums.accepted.sum()),
        "clipped_mass": float(sums.above.sum() / max(sums.total.sum(), 1e-300)),
        "by_label": _by_label(fakes, sums, ceilings),
        "ratio": _ratio(sums, np.concatenate(kept)) if content["has_ratio"] and kept else None,
    }


def _by_label(fakes: FakeDataset, sums: _Sums, ceilings: np.ndarray) -> list[dict[str, Any]]:
    content, labels = fakes.manifest.content, fakes.manifest.labels.tolist()
    count = np.maximum(sums.drawn, 1)
    mean = sums.total / count
    deviation = np.sqrt(np.maximum(sums.squares / count - mean**2, 0.0))
    filtered = content["has_ratio"]
    planned = planned_counts(content, int(content["per_label"]))
    return [
        {
            "label": label,
            "images": int(planned[row]),
            "planned": int(planned[row]),
            "candidates": int(sums.drawn[row]),
            "accepted": int(sums.accepted[row]),
            "acceptance_rate": float(sums.accepted[row] / count[row]),
            "ceiling": float(ceilings[row]) if np.isfinite(ceilings[row]) else None,
            "clipped_mass": float(sums.above[row] / max(sums.total[row], 1e-300)),
            "mean_ratio": float(mean[row]) if filtered else None,
            "ratio_deviation": float(deviation[row]) if filtered else None,
        }
        for row, label in enumerate(labels)
    ]


def _ratio(sums: _Sums, kept: np.ndarray) -> dict[str, Any]:
    count = max(int(sums.drawn.sum()), 1)
    mean = float(sums.total.sum() / count)
    deviation = float(np.sqrt(max(float(sums.squares.sum()) / count - mean**2, 0.0)))
    return {"mean": mean, "spread": deviation / max(mean, 1e-12), "percentiles": percentiles(kept)}

"""A fake dataset in numbers, for `inspect` and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.distances import nearest_finding

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LABELS_LISTED = 1000


def describe_fakes(path: Path) -> dict[str, Any]:
    """JSON: digests, counts for each label, acceptance, clipped mass, quantiles of ratio and error, bytes on disk.

    `candidates` counts all that were drawn by the units of the dataset, the pilot not included; `clipped_mass` is the
    share of the ratios' sum that lies above the ceilings.
    """
    fakes = path if isinstance(path, FakeDataset) else open_fakes(path)
    content = fakes.manifest.content
    drawn = _candidates(fakes)
    ratio = fakes.density_ratio
    found: dict[str, Any] = {
        "path": str(fakes.path),
        "digest": fakes.digest,
        "images": len(fakes),
        "image_shape": list(fakes.image_shape),
        "label_space": content["label_space"],
        "labels": len(fakes.manifest.labels),
        "per_label": content["per_label"],
        "candidates": drawn["candidates"],
        "accepted": drawn["accepted"],
        "acceptance_rate": drawn["accepted"] / max(1, drawn["candidates"]),
        "clipped_mass": drawn["clipped_mass"],
        "by_label": drawn["by_label"][:_LABELS_LISTED],
        "density_ratio": None if ratio is None else _quantiles(ratio),
        "scores": {digest: {"error": _quantiles(fakes.scores(digest).error)} for digest in _complete_sets(fakes)},
        "nearest": nearest_finding(fakes),
        "latents": fakes.has_latents,
        "shards": len(fakes.manifest.shards),
        "bytes_on_disk": sum(file.stat().st_size for file in fakes.path.rglob("*") if file.is_file()),
        "parents": fakes.manifest.parents,
        "settings": content["settings"],
        "provenance": fakes.manifest.provenance,
    }
    return found


def _complete_sets(fakes: FakeDataset) -> list[str]:
    wanted = {entry.name for entry in fakes.manifest.shards}
    sets = {name: fakes.manifest.scores[name] for name in fakes.score_sets()}
    return [name for name, entries in sets.items() if {entry.name for entry in entries} >= wanted]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values.astype(np.float64), _QUANTILES)
    return {
        "mean": float(values.mean(dtype=np.float64)),
        **{f"q{q:g}": float(v) for q, v in zip(_QUANTILES, found, strict=True)},
    }


def _candidates(fakes: FakeDataset) -> dict[str, Any]:
    """Counts and clipped mass, one pass over the ledgers (constant memory)."""
    content = fakes.manifest.content
    group_size = int(content["settings"]["group_size"])
    bounded = content["ceilings"] is not None and not content["settings"]["running_max"]
    ceilings = np.full(len(content["labels"]), np.inf)
    if content["ceilings"] is not None:
        ceilings = np.asarray(content["ceilings"], dtype=np.float64)
    labels = fakes.manifest.labels
    drawn, accepted = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=np.int64)
    above, total = np.zeros(len(labels)), np.zeros(len(labels))
    for entry, unit in zip(fakes.manifest.shards, fakes.ledger(), strict=True):
        first = entry.group * group_size
        counts = fakes.manifest.candidate_counts(entry)
        size = len(counts)
        here = slice(first, first + size)
        place = np.repeat(np.arange(size), counts)
        ratio = unit.r.astype(np.float64)
        drawn[here] += counts
        accepted[here] += np.bincount(place[unit.accepted], minlength=size)
        total[here] += np.bincount(place, ratio, size)
        if bounded:  # a running maximum clips nothing
            above[here] += np.bincount(place, np.maximum(ratio - ceilings[here][place], 0.0), size)
    by_label = [
        {
            "label": labels[row].tolist(),
            "images": int(content["per_label"]),
            "candidates": int(drawn[row]),
            "acceptance_rate": float(accepted[row] / max(1, drawn[row])),
            "ceiling": float(ceilings[row]) if np.isfinite(ceilings[row]) else None,
            "clipped_mass": float(above[row] / max(total[row], 1e-300)),
        }
        for row in range(len(labels))
    ]
    mass = float(above.sum() / max(total.sum(), 1e-300))
    return {"candidates": int(drawn.sum()), "accepted": int(accepted.sum()), "clipped_mass": mass, "by_label": by_label}

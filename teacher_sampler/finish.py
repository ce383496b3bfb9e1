"""The end of a run: where each label is cut, which units are surplus, and the manifest that makes the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    ScoreEntry,
    ShardEntry,
    read_manifest,
    score_path,
    shard_path,
    write_manifest,
)
from image_data.fake.sealed import SHARD_LAYOUT, locate, map_place
from runtime.seeds import label_bits
from teacher_sampler.pilot import Pilot
from teacher_sampler.plan import RunContent, Unit
from teacher_sampler.units import UnitResult


def finish_dataset(
    folder: Path,
    content: RunContent,
    per_label: int,
    pilot: Pilot,
    results: Mapping[Unit, UnitResult],
    provenance: dict[str, Any],
) -> None:
    """Cut each label after its first `per_label` accepted k, remove surplus units, and commit the manifest."""
    shards: list[ShardEntry] = []
    scores: list[ScoreEntry] = []
    cut = np.empty(len(content.labels), dtype=np.int64)
    for group in range(content.groups):
        units = [results[unit] for unit in sorted(results) if unit.group == group]
        counts = np.stack([unit.accepted for unit in units])
        before = np.cumsum(counts, axis=0) - counts
        used = np.clip(per_label - before, 0, counts)
        last = (before + counts >= per_label).argmax(axis=0)  # the unit in which each label reaches its number
        for result, rows in zip(units[: int(last.max()) + 1], used, strict=False):
            name, unit = result.unit.name, result.unit
            total = int(result.accepted.sum())
            shards.append(
                ShardEntry(name, unit.group, unit.index, total, int(rows.sum()), result.candidates, result.sha256)
            )
            if result.score_sha256 is not None:
                scores.append(ScoreEntry(name, result.score_sha256))
        for place, label in enumerate(content.labels[content.group_rows(group)]):
            index = int(last[place])
            wanted = int(per_label - before[index, place])
            name = units[index].unit.name
            cut[group * content.group_size + place] = _accepted_k(shard_path(folder, name), label, wanted)
    sets = _other_sets(folder, content)
    if content.has_predictor:
        sets[content.predictor_digest] = scores
    _remove_surplus(folder, content, {entry.name for entry in shards})
    found = {
        "format_version": FORMAT_VERSION,
        **content.to_json(),
        "settings_digest": content.digest,
        "per_label": per_label,
        "ceilings": None if pilot.ceilings is None else pilot.ceilings.tolist(),
        "pilots": pilot.files,
        "cut": cut.tolist(),
        "shards": [asdict(entry) for entry in shards],
    }
    write_manifest(folder, found, sets, provenance)


def _accepted_k(shard: Path, label: Any, number: int) -> int:
    """k of the `number`-th (from 1) accepted candidate of a label in a shard."""
    places = locate(shard, SHARD_LAYOUT)
    labels, k = map_place(shard, places["fake_labels"]), map_place(shard, places["sample_index"])
    mine = k[label_bits(labels) == label_bits(np.asarray([label]))[0]]
    return int(mine[number - 1])


def _other_sets(folder: Path, content: RunContent) -> dict[str, list[ScoreEntry]]:
    """Score sets of other predictors, where a finished dataset is being extended."""
    if not (folder / MANIFEST_FILE).is_file():
        return {}
    return dict(read_manifest(folder).scores)


def _remove_surplus(folder: Path, content: RunContent, kept: set[str]) -> None:
    for path in (folder / "shards").glob("unit-*.h5"):
        if path.name not in kept:
            path.unlink()
            score_path(folder, content.predictor_digest, path.name).unlink(missing_ok=True)

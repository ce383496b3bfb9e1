"""The end of a run: where each label is cut, which units are surplus, and the manifest that makes the dataset."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.distances import set_name
from image_data.fake.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    NEAREST_PREFIX,
    ScoreEntry,
    ShardEntry,
    read_manifest,
    score_path,
    shard_path,
    write_manifest,
)
from image_data.fake.sealed import SHARD_LAYOUT, locate, map_place
from runtime.digests import digest_of
from runtime.seeds import label_bits
from teacher_sampler.sampling.pilot import Pilot
from teacher_sampler.sampling.plan import RunContent, Unit
from teacher_sampler.sampling.units import UnitResult


def finish_dataset(
    folder: Path,
    content: RunContent,
    per_label: int,
    pilot: Pilot,
    results: Mapping[Unit, UnitResult],
    provenance: dict[str, Any],
) -> None:
    """Cut each label after its first `per_label` accepted k, remove surplus units, and commit the manifest.

    Distance sets of the dataset before it grew go, since they tell nothing of the new rows; `score --nearest` makes
    new ones.
    """
    shards: list[ShardEntry] = []
    scores: list[ScoreEntry] = []
    cut: list[int] = []
    wanted = content.wanted(per_label)
    for group, units in enumerate(in_groups(results, content.groups)):
        rows = content.group_rows(group)
        listed, own, last_k = _finish_group(folder, content.labels[rows], units, wanted[rows])
        shards += listed
        scores += own
        cut += last_k
    sets = _other_sets(folder)
    if content.has_predictor:
        sets[content.predictor_digest] = scores
    remove_surplus(folder, content, {entry.name for entry in shards}, {unit.name for unit in results})
    sealed = {
        "format_version": FORMAT_VERSION,
        **content.to_json(),
        "settings_digest": content.digest,
        "per_label": per_label,
        "ceilings": None if pilot.ceilings is None else pilot.ceilings.tolist(),
        "pilots": pilot.files,
        "cut": cut,
        "shards": [asdict(entry) for entry in shards],
    }
    write_manifest(folder, sealed, sets, provenance)
    for old in (folder / "scores").glob(f"{NEAREST_PREFIX}*"):
        if not old.name.startswith(set_name(digest_of(sealed), "")):
            shutil.rmtree(old, ignore_errors=True)


def _finish_group(
    folder: Path, labels: np.ndarray, units: list[UnitResult], wanted: np.ndarray
) -> tuple[list[ShardEntry], list[ScoreEntry], list[int]]:
    """A group's lines of the manifest: its shards, their score files, and the last k of each of its labels."""
    shards, scores = [], []
    before, used, last = cut_group(np.stack([unit.accepted for unit in units]), wanted)
    for result, rows in zip(units[: int(last.max()) + 1], used, strict=False):
        name, unit = result.unit.name, result.unit
        total = int(result.accepted.sum())
        shards.append(
            ShardEntry(name, unit.group, unit.index, total, int(rows.sum()), result.candidates, result.sha256)
        )
        if result.score_sha256 is not None:
            scores.append(ScoreEntry(name, result.score_sha256))
    cut = []
    for place, label in enumerate(labels):
        index = int(last[place])
        missing = int(wanted[place] - before[index, place])
        cut.append(_accepted_k(shard_path(folder, units[index].unit.name), label, missing))
    return shards, scores, cut


def in_groups(results: Mapping[Unit, UnitResult], groups: int) -> list[list[UnitResult]]:
    """The units of each label group in the order of k."""
    grouped: list[list[UnitResult]] = [[] for _ in range(groups)]
    for unit in sorted(results):
        grouped[unit.group].append(results[unit])
    return grouped


def cut_group(counts: np.ndarray, per_label: int | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a group is cut, from the accepted rows of its units in order, int64 U x G.

    Returns what each label has before each unit and what it takes of each unit (int64 U x G), and the unit in which
    each label reaches its number (int64 G); units after the last of these are surplus.
    """
    before = np.cumsum(counts, axis=0) - counts
    used = np.clip(per_label - before, 0, counts)
    return before, used, (before + counts >= per_label).argmax(axis=0)


def _accepted_k(shard: Path, label: Any, number: int) -> int:
    """k of the `number`-th (from 1) accepted candidate of a label in a shard."""
    places = locate(shard, SHARD_LAYOUT)
    labels, k = map_place(shard, places["fake_labels"]), map_place(shard, places["sample_index"])
    accepted = k[label_bits(labels) == label_bits(np.asarray([label]))[0]]
    return int(accepted[number - 1])


def _other_sets(folder: Path) -> dict[str, list[ScoreEntry]]:
    """Score sets of other predictors, where a finished dataset is being extended."""
    if not (folder / MANIFEST_FILE).is_file():
        return {}
    scores = read_manifest(folder).scores
    return {name: entries for name, entries in scores.items() if not name.startswith(NEAREST_PREFIX)}


def remove_surplus(folder: Path, content: RunContent, kept: Set[str], written: Set[str] = frozenset()) -> None:
    """Delete shards, and the run's own scores, that are not `kept`.

    `written`: names of units that this run knows of; a network disk may not list at once what another node has written.
    """
    own = score_path(folder, content.predictor_digest, "")
    for place in (own, folder / "shards"):  # a shard goes last: its scores alone would belong to nothing
        for name in ({path.name for path in place.glob("unit-*.h5")} | written) - kept:
            (place / name).unlink(missing_ok=True)

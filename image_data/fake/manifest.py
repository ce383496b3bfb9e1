"""`manifest.json`: what a finished fake dataset consists of.

`content` (settings, parents' digests, ceilings, cut, shards) names the dataset by the digest of its canonical JSON;
`scores` lists the score sets, `provenance` records how it was sampled; `seal` is the digest of all the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from image_data.labels import label_space_from_json
from interfaces import LabelSpace
from runtime.atomic import fsync_path, json_bytes, write_bytes
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.failure_points import failure_point
from runtime.safe_files import parse_json, read_limited
from runtime.safe_files.sealed_json import SEAL, sealed_bytes
from runtime.seeds import label_bits

MANIFEST_LIMIT_BYTES = 1 << 30
MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.json"
FORMAT_VERSION = 1
NEAREST_PREFIX = "nearest-"  # of the names of distance sets, which stand among the score sets
_NOT_IN_RUN_FILE = frozenset({"format_version", "settings_digest", "per_label", "ceilings", "pilots", "cut", "shards"})
_REMEDY = "restore it, or remove it and run the same `sample` command again, which makes it from the shards"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\.h5")
_DIGEST = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class ShardEntry:
    """One sealed shard: `rows` accepted images, of which `used` lie before the cut, out of `candidates`."""

    name: str
    group: int
    index: int
    rows: int
    used: int
    candidates: int
    sha256: str


@dataclass(frozen=True)
class ScoreEntry:
    """One score file, row-aligned with the shard of the same name."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The parsed manifest.  `labels` are the planned labels in order; `cut` is the last k of each in the dataset."""

    digest: str
    content: dict[str, Any]
    scores: dict[str, list[ScoreEntry]]
    provenance: dict[str, Any]
    shards: tuple[ShardEntry, ...]

    @property
    def label_space(self) -> LabelSpace:
        return label_space_from_json(self.content["label_space"])

    @property
    def labels(self) -> np.ndarray:
        return label_array(self.content["labels"], self.label_space)

    @property
    def settings(self) -> dict[str, Any]:
        """The sampler's resolved settings, with `teacher_digest`, `filter_digest` and `predictor_digest`."""
        resolved: dict[str, Any] = self.content["settings"]
        return resolved

    @property
    def parents(self) -> dict[str, str]:
        """Digests of the teacher, filter and predictor, those that were used."""
        digests = {kind: self.settings.get(f"{kind}_digest", "") for kind in ("teacher", "filter", "predictor")}
        return {kind: digest for kind, digest in digests.items() if digest}

    def candidate_counts(self, entry: ShardEntry) -> np.ndarray:
        """int64 G: candidates of each label of the shard's group that its unit drew."""
        group_size, span = int(self.settings["group_size"]), int(self.settings["unit_candidates"])
        group = slice(entry.group * group_size, min((entry.group + 1) * group_size, len(self.content["labels"])))
        return candidate_counts(self.content.get("available"), group, entry.index * span, span)

    def used_rows(self, entry: ShardEntry, labels: np.ndarray, sample_index: np.ndarray) -> np.ndarray:
        """int64: the rows of a shard that lie before the cut, in order."""
        planned = label_bits(self.labels)
        order = np.argsort(planned)
        place = np.searchsorted(planned[order], label_bits(labels)).clip(max=len(order) - 1)
        cut = np.asarray(self.content["cut"], dtype=np.int64)[order][place]
        rows = np.flatnonzero(sample_index <= cut)
        if len(rows) != entry.used:
            raise UserError(
                f"shard {entry.name} holds {len(rows)} rows of the dataset where the manifest says {entry.used}."
            )
        return rows


def planned_counts(content: Mapping[str, Any], per_label: int) -> np.ndarray:
    """int64 L: fakes of each label.  `content`: a run's or a manifest's.

    `per_label` of each; but of a teacher of ready images, from which what is there is taken, no more than it has.
    """
    counts = np.full(len(content["labels"]), per_label, dtype=np.int64)
    available = content.get("available")
    if available is None or not content["settings"].get("take_available", False):
        return counts
    return np.minimum(counts, np.asarray(available, dtype=np.int64))


def candidate_counts(available: Sequence[int] | None, group: slice, first_k: int, span: int) -> np.ndarray:
    """int64 G: how many of the candidates first_k .. first_k + span - 1 each planned label of a group has.

    `available`: candidates of every planned label, or None where they are endless.
    """
    if available is None:
        return np.full(group.stop - group.start, span, dtype=np.int64)
    return np.clip(np.asarray(available[group], dtype=np.int64) - first_k, 0, span)


def label_array(values: list[Any], space: LabelSpace) -> np.ndarray:
    """Labels from JSON in their stored type: int64 N, or float64 N or N x d."""
    return np.asarray(values, dtype=np.int64 if space.kind == "classes" else np.float64)


def seal_manifest(
    content: dict[str, Any], scores: dict[str, list[ScoreEntry]], provenance: dict[str, Any]
) -> dict[str, Any]:
    """The manifest's JSON."""
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "digest": digest_of(content),
        "content": content,
        "scores": {name: [asdict(entry) for entry in entries] for name, entries in sorted(scores.items())},
        "provenance": provenance,
    }
    return {**manifest, "seal": digest_of(manifest)}


def _as_bytes(sealed: dict[str, Any]) -> bytes:
    return (json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_manifest(
    folder: Path, content: dict[str, Any], scores: dict[str, list[ScoreEntry]], provenance: dict[str, Any]
) -> None:
    """Commit the manifest: from here on the dataset is finished.

    First the folders that it speaks of are brought to the disk: each file was when it was committed, but the names of
    new folders stand in the folder above.
    """
    failure_point("store.before_manifest")
    sets = [folder / "scores" / name for name in scores]
    for place in (*sets, folder / "scores", folder / "shards", folder):
        if place.is_dir():
            fsync_path(place)
    write_bytes(folder / MANIFEST_FILE, _as_bytes(seal_manifest(content, scores, provenance)))


def run_file_bytes(content: dict[str, Any], digest: str, per_label: int) -> bytes:
    """`run.json`: what is sampled (`content`, whose digest is in every shard) and how many fakes of each label."""
    return sealed_bytes({"digest": digest, "content": content, "per_label": per_label})


def is_run_file(raw: bytes, whole: bytes) -> bool:
    """Whether `raw` is the run file `whole`, byte for byte; those of older versions carry no seal."""
    if raw == whole:
        return True
    plain = json.loads(whole)
    del plain[SEAL]
    return raw == json_bytes(plain)


def run_file_of(manifest: Manifest) -> bytes:
    """`run.json` as the run of this finished dataset wrote it; all of it stands in the manifest too."""
    content = {key: value for key, value in manifest.content.items() if key not in _NOT_IN_RUN_FILE}
    return run_file_bytes(content, manifest.content["settings_digest"], manifest.content["per_label"])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished dataset.

    Raises UserError where `folder` is no fake dataset, is unfinished, or its manifest was changed.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if (folder / RUN_FILE).is_file():
            raise UserError(f"{folder} is not finished; run its `sample` command again to continue it.")
        if folder.is_file():
            raise UserError(
                f"{folder} is a file and no fake dataset; make one of its images with `import-teacher --arch images "
                f"--checkpoint {folder}` and `sample --filter none --predictor none`."
            )
        raise UserError(
            f"{folder} is no fake dataset (it holds no {MANIFEST_FILE}); give the folder that `sample` made."
        )
    raw = read_limited(path, MANIFEST_LIMIT_BYTES, "mend that and keep the file")
    try:
        stored = parse_json(raw, str(path), _REMEDY)
        version = stored["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{path} has format version {version}; this program reads version {FORMAT_VERSION}.")
        stated = stored.pop("seal")
        if digest_of(stored) != stated or digest_of(stored["content"]) != stored["digest"]:
            raise UserError(f"{path} does not match its own digest; it was changed or damaged; {_REMEDY}.")
        if _as_bytes({**stored, "seal": stated}) != raw:
            raise UserError(f"{path} is not as `sample` wrote it; {_REMEDY}.")
        return _parse(stored)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is no manifest of a fake dataset; {_REMEDY}.") from error


def _parse(stored: dict[str, Any]) -> Manifest:
    shards = tuple(_entry(ShardEntry, item) for item in stored["content"]["shards"])
    scores = {str(name): [_entry(ScoreEntry, item) for item in items] for name, items in stored["scores"].items()}
    names = [entry.name for entry in shards] + [entry.name for items in scores.values() for entry in items]
    if not all(_FILE_NAME.fullmatch(name) for name in names) or not all(_DIGEST.fullmatch(name) for name in scores):
        raise ValueError("a file name leads out of the folder")
    if any(entry.rows < entry.used or entry.used < 0 for entry in shards):
        raise ValueError("more rows are used than there are")
    return Manifest(stored["digest"], stored["content"], scores, stored["provenance"], shards)


def _entry(kind: type[Any], item: dict[str, Any]) -> Any:
    wanted = {field.name: field.type for field in fields(kind)}
    if set(item) != set(wanted):
        raise ValueError(f"a {kind.__name__} has other fields")
    for name, value in item.items():
        if not isinstance(value, int if wanted[name] == "int" else str):
            raise TypeError(f"{name} has the wrong type")
    return kind(**item)


def shard_path(folder: Path, name: str) -> Path:
    """Where a shard lies."""
    return Path(folder) / "shards" / name


def score_path(folder: Path, digest: str, name: str) -> Path:
    """Where a score file lies."""
    return Path(folder) / "scores" / digest / name

"""Is every byte of a fake dataset as it was written?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_data.fake.manifest import Manifest, read_manifest, score_path, shard_path
from image_data.fake.sealed import SCORE_LAYOUT, SHARD_LAYOUT, read_sealed, rows_crc32
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.progress import progress

PILOT_FOLDER = "pilot"


def verify_fakes(path: Path) -> list[str]:
    """Read everything once: SHA-256 of each file, CRC-32 of each array and row, the manifest's digests, rows, strays.

    Returns one sentence for each problem, naming the file; an empty list where all is well.  A damaged manifest is a
    problem too; only a folder that holds no dataset raises UserError.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except UserError as error:
        if not (path / "manifest.json").is_file():
            raise
        return [str(error)]
    total = len(manifest.shards) * (1 + len(manifest.scores))
    with progress("verifying", total) as bar:
        problems: list[str] = []
        for found in _problems(path, manifest):
            bar.advance(1)
            problems += found
    return problems + _strays(path, manifest)


def damaged_units(path: Path, manifest: Manifest) -> dict[str, list[str]]:
    """File name of each unit -> what is damaged: "shard", or the digest of a score set."""
    found: dict[str, list[str]] = {}
    for entry in manifest.shards:
        if _file_problems(shard_path(path, entry.name), entry.sha256):
            found.setdefault(entry.name, []).append("shard")
    for digest, entries in manifest.scores.items():
        for score in entries:
            if _file_problems(score_path(path, digest, score.name), score.sha256):
                found.setdefault(score.name, []).append(digest)
    return found


def _problems(path: Path, manifest: Manifest) -> Iterator[list[str]]:
    for name, sha256 in manifest.content.get("pilots", {}).items():
        found = _file_problems(path / PILOT_FOLDER / name, sha256)
        if found:
            yield found
    used = 0
    for entry in manifest.shards:
        file = shard_path(path, entry.name)
        found = _file_problems(file, entry.sha256)
        yield found or _shard_problems(file, manifest, entry.name)
        used += entry.used
    planned = int(manifest.content["per_label"]) * len(manifest.labels)
    if used != planned:
        yield [f"{path}: the shards hold {used} rows of the dataset where {planned} were planned."]
    names = {entry.name: entry.rows for entry in manifest.shards}
    for digest, entries in manifest.scores.items():
        for score in entries:
            file = score_path(path, digest, score.name)
            yield _file_problems(file, score.sha256) or _score_problems(file, names.get(score.name))
        missing = sorted(set(names) - {score.name for score in entries})
        if missing:
            yield [f"{path}/scores/{digest} lacks {len(missing)} files, e.g. {missing[0]}; run `score` again."]


def _file_problems(file: Path, sha256: str) -> list[str]:
    try:
        if file_sha256(file) == sha256:
            return []
    except FileNotFoundError:
        return [f"{file} is missing."]
    except OSError as error:
        return [f"{file} cannot be read ({error})."]
    return [f"{file} does not match its SHA-256 in the manifest."]


def _shard_problems(file: Path, manifest: Manifest, name: str) -> list[str]:
    entry = next(item for item in manifest.shards if item.name == name)
    try:
        arrays = read_sealed(file, SHARD_LAYOUT, {})
        manifest.used_rows(entry, arrays["fake_labels"], arrays["sample_index"])
    except UserError as error:
        return [str(error)]
    if len(arrays["fake_images"]) != entry.rows or len(arrays["candidates/k"]) != entry.candidates:
        return [f"{file} holds another number of rows than the manifest says."]
    bad = np.flatnonzero(rows_crc32(arrays["fake_images"]) != arrays["row_crc32"])
    return [f"{file}: {len(bad)} rows do not match their checksums, e.g. row {bad[0]}."] if len(bad) else []


def _score_problems(file: Path, rows: int | None) -> list[str]:
    try:
        arrays = read_sealed(file, SCORE_LAYOUT, {})
    except UserError as error:
        return [str(error)]
    if rows is None:
        return [f"{file} belongs to no shard."]
    if len(arrays["error"]) != rows:
        return [f"{file} holds {len(arrays['error'])} rows where its shard has {rows}."]
    return []


def _strays(path: Path, manifest: Manifest) -> list[str]:
    known = {entry.name for entry in manifest.shards}
    places = [(path / "shards", known), (path / PILOT_FOLDER, set(manifest.content.get("pilots", {})))]
    places += [
        (path / "scores" / digest, {entry.name for entry in entries}) for digest, entries in manifest.scores.items()
    ]
    found = [file for folder, names in places for file in sorted(folder.glob("*.h5")) if file.name not in names]
    return [
        f"{file} is not in the manifest; a run that extends the dataset is unfinished, or it was put there."
        for file in found
    ]

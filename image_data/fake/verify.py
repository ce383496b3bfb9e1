"""Is every byte of a fake dataset as it was written?

A file with the SHA-256 that the manifest gives is byte for byte the one that was checked before it was committed, so
its own checksums are not computed again; where it has another, they tell which rows are damaged.  Several files are
read at a time, since hashing lets other threads run: the disk is the limit, or the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from image_data.fake.manifest import (
    MANIFEST_FILE,
    MANIFEST_LIMIT_BYTES,
    NEAREST_PREFIX,
    RUN_FILE,
    Manifest,
    ShardEntry,
    is_run_file,
    planned_counts,
    read_manifest,
    run_file_of,
    score_path,
    shard_path,
)
from image_data.fake.sealed import (
    DISTANCE_LAYOUT,
    SCORE_LAYOUT,
    SHARD_LAYOUT,
    damaged_rows,
    locate,
    map_place,
    read_sealed,
)
from runtime.devices import usable_cores
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.progress import progress
from runtime.safe_files import read_limited

PILOT_FOLDER = "pilot"
MOST_THREADS = 8  # each maps one shard at a time

Check = Callable[[], list[str]]


def verify_fakes(path: Path) -> list[str]:
    """Read everything once: SHA-256 of each file, `run.json`, the manifest's digests, numbers of rows, strays.

    Returns one sentence for each problem, naming the file; an empty list where all is well.  A damaged manifest is a
    problem too; only a folder that holds no dataset raises UserError.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except UserError as error:
        if not (path / MANIFEST_FILE).is_file():
            raise
        return [str(error)]
    checks = list(_checks(path, manifest))
    problems: list[str] = []
    with progress("verifying", len(checks)) as bar:
        for sentences in _in_threads(checks):
            bar.advance(1)
            problems += sentences
    return [*problems, *_whole_problems(path, manifest), *_strays(path, manifest)]


def damaged_units(path: Path, manifest: Manifest) -> dict[str, list[str]]:
    """File name of each unit -> what is damaged: "shard", or the digest of a score set."""
    files = [(entry.name, "shard", shard_path(path, entry.name), entry.sha256) for entry in manifest.shards]
    for digest, entries in manifest.scores.items():
        files += [(score.name, digest, score_path(path, digest, score.name), score.sha256) for score in entries]
    checks = [_file_check(file, sha256) for _, _, file, sha256 in files]
    kinds: dict[str, list[str]] = {}
    for (name, kind, _, _), problems in zip(files, _in_threads(checks), strict=True):
        if problems:
            kinds.setdefault(name, []).append(kind)
    return kinds


def _in_threads(checks: Iterable[Check]) -> Iterator[list[str]]:
    """What each check finds, in their order."""
    with ThreadPoolExecutor(min(MOST_THREADS, usable_cores())) as pool:
        yield from pool.map(lambda check: check(), checks)


def _checks(path: Path, manifest: Manifest) -> Iterator[Check]:
    for name, sha256 in manifest.content.get("pilots", {}).items():
        yield _file_check(path / PILOT_FOLDER / name, sha256)
    for entry in manifest.shards:
        yield _shard_check(shard_path(path, entry.name), manifest, entry)
    rows = {entry.name: entry.rows for entry in manifest.shards}
    for digest, entries in manifest.scores.items():
        for score in entries:
            yield _score_check(score_path(path, digest, score.name), score.sha256, rows.get(score.name))


def _whole_problems(path: Path, manifest: Manifest) -> list[str]:
    """What concerns no single file of the store."""
    problems = []
    used = sum(entry.used for entry in manifest.shards)
    planned = int(planned_counts(manifest.content, int(manifest.content["per_label"])).sum())
    if used != planned:
        problems.append(f"{path}: the shards hold {used} rows of the dataset where {planned} were planned.")
    names = {entry.name for entry in manifest.shards}
    for digest, entries in manifest.scores.items():
        missing = sorted(names - {score.name for score in entries})
        if missing:
            command = "score --nearest" if digest.startswith(NEAREST_PREFIX) else "score"
            problems.append(
                f"{path}/scores/{digest} lacks {len(missing)} files, e.g. {missing[0]}; run `{command}` again."
            )
    run = path / RUN_FILE
    if not run.is_file():
        problems.append(f"{run} is missing.")
    elif not is_run_file(read_limited(run, MANIFEST_LIMIT_BYTES), run_file_of(manifest)):
        problems.append(
            f"{run} is not what the manifest says: a run that extends the dataset is unfinished, or damage."
        )
    return problems


def _file_check(file: Path, sha256: str) -> Check:
    return lambda: _file_problems(file, sha256)


def _shard_check(file: Path, manifest: Manifest, entry: ShardEntry) -> Check:
    def check() -> list[str]:
        damage = _file_problems(file, entry.sha256)
        return [f"{damage[0]}{_damaged_rows(file)}"] if damage else _shard_problems(file, manifest, entry)

    return check


def _score_check(file: Path, sha256: str, rows: int | None) -> Check:
    return lambda: _file_problems(file, sha256) or _score_problems(file, rows)


def _file_problems(file: Path, sha256: str) -> list[str]:
    try:
        if file_sha256(file) == sha256:
            return []
    except FileNotFoundError:
        return [f"{file} is missing."]
    except OSError as error:
        return [f"{file} cannot be read ({error})."]
    return [f"{file} does not match its SHA-256 in the manifest."]


def _damaged_rows(file: Path) -> str:
    """What a file with another SHA-256 says of its images by its own checksums; nothing where it cannot be opened."""
    try:
        places = locate(file, SHARD_LAYOUT)
        bad = damaged_rows(map_place(file, places["fake_images"]), map_place(file, places["row_crc32"]))
    except (UserError, OSError):
        return ""
    return f" Of its images {len(bad)} are damaged, e.g. row {bad[0]}." if len(bad) else " Its images are whole."


def _shard_problems(file: Path, manifest: Manifest, entry: ShardEntry) -> list[str]:
    try:
        places = locate(file, SHARD_LAYOUT)
        arrays = {name: map_place(file, places[name]) for name in ("fake_labels", "sample_index")}
        manifest.used_rows(entry, arrays["fake_labels"], arrays["sample_index"])
    except UserError as error:
        return [str(error)]
    if places["fake_images"].shape[0] != entry.rows or places["candidates/k"].shape[0] != entry.candidates:
        return [f"{file} holds another number of rows than the manifest says."]
    return []


def _score_problems(file: Path, rows: int | None) -> list[str]:
    try:
        nearest = file.parent.name.startswith(NEAREST_PREFIX)
        arrays = read_sealed(file, DISTANCE_LAYOUT if nearest else SCORE_LAYOUT, {})
    except UserError as error:
        return [str(error)]
    if rows is None:
        return [f"{file} belongs to no shard."]
    problems = len(arrays["training_row" if nearest else "error"])
    if problems != rows:
        return [f"{file} holds {problems} rows where its shard has {rows}."]
    return []


def _strays(path: Path, manifest: Manifest) -> list[str]:
    known = {entry.name for entry in manifest.shards}
    places = [(path / "shards", known), (path / PILOT_FOLDER, set(manifest.content.get("pilots", {})))]
    places += [
        (path / "scores" / digest, {entry.name for entry in entries}) for digest, entries in manifest.scores.items()
    ]
    problems = [file for folder, names in places for file in sorted(folder.glob("*.h5")) if file.name not in names]
    return [
        f"{file} is not in the manifest; a run that extends the dataset is unfinished, or it was put there."
        for file in problems
    ]

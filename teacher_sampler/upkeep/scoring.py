"""Adding a score set to a finished dataset; the shards and the dataset's name stay as they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from image_data.fake.manifest import (
    ScoreEntry,
    read_manifest,
    score_path,
    shard_path,
    write_manifest,
)
from image_data.fake.sealed import SHARD_LAYOUT, read_sealed
from interfaces import Engine, Predictor
from runtime.atomic import disk_errors, remove_leftovers
from runtime.digests import file_sha256
from runtime.progress import progress
from teacher_sampler.sampling.plan import ErrorFunction, RunContent
from teacher_sampler.sampling.runs import load_run, one_writer
from teacher_sampler.sampling.units import (
    commit_made,
    fixed_numerics,
    make_scores,
    once_a_process,
    release,
)


@dataclass(frozen=True, eq=False)
class ScoreWorker:
    """Scores one shard; picklable, builds the predictor once in each process."""

    folder: Path
    make_predictor: Callable[[], Predictor]
    error: ErrorFunction
    predictor_digest: str
    content: RunContent
    token: str

    def __call__(self, name: str) -> ScoreEntry:
        arrays = read_sealed(shard_path(self.folder, name), SHARD_LAYOUT, {"settings": self.content.digest})
        predictor: Predictor = once_a_process(self.token, self.make_predictor)
        with fixed_numerics(self.content.settings):
            digest, path = self.predictor_digest, score_path(self.folder, self.predictor_digest, name)
            scores = make_scores(self.folder, self.content, digest, name, arrays, predictor, self.error)
        return ScoreEntry(name, commit_made(path, scores))


def score(
    fakes_path: Path,
    make_predictor: Callable[[], Predictor],
    error: ErrorFunction,
    predictor_digest: str,
    engine: Engine,
) -> str:
    """Score every row of a finished dataset with another predictor; returns the digest of the score set.

    Continues where it was interrupted; returns at once where the set is complete.  The dataset's own digest stays.
    Raises UserError where the dataset is unfinished, a shard is damaged, or another process is writing.
    """
    folder = Path(fakes_path)
    if _is_whole(folder, predictor_digest):  # a folder that is none gets no lock file, nor one that needs no write
        return predictor_digest
    with disk_errors(folder), one_writer(folder):
        return _score(folder, make_predictor, error, predictor_digest, engine)


def _is_whole(folder: Path, predictor_digest: str) -> bool:
    manifest = read_manifest(folder)
    listed = manifest.scores.get(predictor_digest, [])
    if not {entry.name for entry in listed} >= {entry.name for entry in manifest.shards}:
        return False
    return all(matches(score_path(folder, predictor_digest, entry.name), entry.sha256) for entry in listed)


def _score(
    folder: Path,
    make_predictor: Callable[[], Predictor],
    error: ErrorFunction,
    predictor_digest: str,
    engine: Engine,
) -> str:
    manifest = read_manifest(folder)
    names = [entry.name for entry in manifest.shards]
    listed = manifest.scores.get(predictor_digest, [])
    whole = {entry.name for entry in listed} >= set(names)
    paths = {score_path(folder, predictor_digest, entry.name): entry.sha256 for entry in listed}
    damaged = [path for path, sha256 in paths.items() if not matches(path, sha256)]
    if whole and not damaged:
        return predictor_digest
    for path in damaged:  # the worker keeps any file that is whole in itself
        path.unlink(missing_ok=True)
    content, _ = load_run(folder)
    remove_leftovers(folder / "scores" / predictor_digest)
    token = secrets.token_hex(8)
    worker = ScoreWorker(folder, make_predictor, error, predictor_digest, content, token)
    entries: dict[str, ScoreEntry] = {}
    try:
        with progress("scoring", len(names)) as bar:
            for entry in engine.map(worker, names):
                entries[entry.name] = entry
                bar.advance(1)
    finally:
        release(token)
    scores = {**manifest.scores, predictor_digest: [entries[name] for name in names]}
    write_manifest(folder, manifest.content, scores, manifest.provenance)
    return predictor_digest


def matches(path: Path, sha256: str) -> bool:
    """Whether the file is there with these contents."""
    return path.is_file() and file_sha256(path) == sha256

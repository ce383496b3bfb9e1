"""Making damaged files of a fake dataset again: a shard is a pure function of its unit, so the bytes come out equal."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np

from image_data.fake.manifest import RUN_FILE, Manifest, read_manifest, score_path, shard_path
from image_data.fake.verify import PILOT_FOLDER, damaged_units
from interfaces import Engine
from runtime.atomic import disk_errors
from runtime.errors import UserError
from runtime.progress import progress
from teacher_sampler.plan import MakeParts, RunContent, Unit
from teacher_sampler.runs import load_run, mend_run_file, one_writer
from teacher_sampler.scoring import matches
from teacher_sampler.units import PilotWorker, UnitWorker, release


def repair(path: Path, make_parts: MakeParts, engine: Engine) -> list[str]:
    """Make the damaged files again (run.json, pilots, shards, the run's own scores); returns their names.

    Each file is checked against the manifest's SHA-256.  Raises UserError where one comes out otherwise (another
    device, software or teacher), where a score set of another predictor is damaged, which `score` makes again, and
    where another process is writing.
    """
    folder = Path(path)
    read_manifest(folder)  # a folder that is none gets no lock file either
    token = secrets.token_hex(8)
    try:
        with disk_errors(folder), one_writer(folder):
            return _repair(folder, read_manifest(folder), make_parts, engine, token)
    finally:
        release(token)


def _repair(folder: Path, manifest: Manifest, make_parts: MakeParts, engine: Engine, token: str) -> list[str]:
    repaired = [RUN_FILE] if mend_run_file(folder, manifest) else []
    content, _ = load_run(folder)
    damaged = damaged_units(folder, manifest)
    foreign = {kind for kinds in damaged.values() for kind in kinds} - {"shard", content.predictor_digest}
    stated = {entry.name: entry.sha256 for entry in manifest.shards}
    scored = {entry.name: entry.sha256 for entry in manifest.scores.get(content.predictor_digest, [])}
    units = [Unit(entry.group, entry.index) for entry in manifest.shards if entry.name in damaged]
    ceilings = manifest.content["ceilings"]
    bounds = None if ceilings is None else np.asarray(ceilings, dtype=np.float64)
    for name, kinds in damaged.items():
        _set_aside(folder, content, name, kinds)
    pilots = PilotWorker(folder, make_parts, content, content.digest, token)
    repaired += _repair_pilots(folder, manifest.content["pilots"], pilots)
    worker = UnitWorker(folder, make_parts, content, content.digest, bounds, token)
    with progress("repairing", len(units)) as bar:
        for result in engine.map(worker, units):
            name = result.unit.name
            if result.sha256 != stated[name] or (content.has_predictor and result.score_sha256 != scored[name]):
                raise UserError(
                    f"{shard_path(folder, name)} comes out otherwise than the manifest says: the teacher, the "
                    f"device or the software is another than at sampling; sample into a new folder."
                )
            repaired.append(name)
            bar.advance(1)
    if foreign:
        raise UserError(
            f"score sets {', '.join(sorted(foreign))} are damaged; run `score` with their predictors again."
        )
    return repaired


def _set_aside(folder: Path, content: RunContent, name: str, kinds: list[str]) -> None:
    """Take damaged files away, since the worker keeps any file that is whole in itself."""
    if "shard" in kinds:
        shard_path(folder, name).unlink(missing_ok=True)
    if content.predictor_digest in kinds:
        score_path(folder, content.predictor_digest, name).unlink(missing_ok=True)


def _repair_pilots(folder: Path, pilots: dict[str, str], worker: PilotWorker) -> list[str]:
    repaired = []
    for group, (name, sha256) in enumerate(sorted(pilots.items())):
        path = folder / PILOT_FOLDER / name
        if matches(path, sha256):
            continue
        path.unlink(missing_ok=True)
        if worker(group).sha256 != sha256:
            raise UserError(f"{path} comes out otherwise than the manifest says; sample into a new folder.")
        repaired.append(name)
    return repaired

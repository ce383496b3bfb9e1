"""Making damaged files of a fake dataset again: a shard is a pure function of its unit, so the bytes come out equal.

Each file is computed in a folder beside the dataset and takes its place only where it is the one that the manifest
lists; what cannot be computed again stays as it is, since rows of a damaged shard may still be good.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from image_data.fake.manifest import NEAREST_PREFIX, RUN_FILE, Manifest, read_manifest, score_path, shard_path
from image_data.fake.verify import PILOT_FOLDER, damaged_units
from interfaces import Engine
from runtime.atomic import commit_file, disk_errors, remove_leftovers
from runtime.errors import UserError
from runtime.progress import progress
from teacher_sampler.sampling.plan import MakeParts, Unit
from teacher_sampler.sampling.runs import load_run, mend_run_file, one_writer
from teacher_sampler.sampling.units import PilotWorker, UnitResult, UnitWorker, release
from teacher_sampler.upkeep.scoring import matches

_PILOT = re.compile(r"group-(\d{5,})\.h5")


def repair(path: Path, make_parts: MakeParts, engine: Engine) -> list[str]:
    """Make the damaged files again (run.json, pilots, shards, the run's own scores); returns their names.

    Each file is checked against the manifest's SHA-256.  Raises UserError, when all the others are mended, where some
    come out otherwise (another device, software or teacher), where a score set of another predictor or a distance set
    is damaged, which `score` makes again, and where another process is writing.
    """
    folder = Path(path)
    read_manifest(folder)  # a folder that is none gets no lock file either
    token = secrets.token_hex(8)
    try:
        with disk_errors(folder), one_writer(folder):
            remove_leftovers(folder)
            aside = Path(tempfile.mkdtemp(prefix=".repair.", suffix=".tmp", dir=folder))
            try:
                return _repair(folder, aside, read_manifest(folder), make_parts, engine, token)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        release(token)


def _repair(
    folder: Path, aside: Path, manifest: Manifest, make_parts: MakeParts, engine: Engine, token: str
) -> list[str]:
    repaired = [RUN_FILE] if mend_run_file(folder, manifest) else []
    content, _ = load_run(folder)
    own = content.predictor_digest
    damaged = damaged_units(folder, manifest)
    pilots = PilotWorker(aside, make_parts, content, content.digest, token)
    mended, otherwise = _repair_pilots(folder, aside, manifest.content["pilots"], pilots)
    repaired += mended
    stated = {shard_path(folder, entry.name): entry.sha256 for entry in manifest.shards}
    stated |= {score_path(folder, own, entry.name): entry.sha256 for entry in manifest.scores.get(own, [])}
    ceilings = manifest.content["ceilings"]
    bounds = None if ceilings is None else np.asarray(ceilings, dtype=np.float64)
    worker = UnitWorker(aside, make_parts, content, content.digest, bounds, token)
    units = [
        Unit(entry.group, entry.index) for entry in manifest.shards if {"shard", own} & set(damaged.get(entry.name, []))
    ]
    for unit in units:
        _lend_whole(folder, aside, own, unit.name, damaged[unit.name])
    with progress("repairing", len(units)) as bar:
        for result in engine.map(worker, units):
            differing = _take_unit(folder, aside, own, result, damaged[result.unit.name], stated)
            otherwise += differing
            repaired += [] if differing else [result.unit.name]
            bar.advance(1)
    if otherwise:
        raise UserError(
            f"{otherwise[0]} comes out otherwise than the manifest says ({len(otherwise)} such files are left as they "
            f"were): the teacher, the device or the software is another than at sampling; sample into a new folder."
        )
    _refuse_foreign(sorted({kind for kinds in damaged.values() for kind in kinds} - {"shard", own}))
    return repaired


def _refuse_foreign(sets: list[str]) -> None:
    """UserError where the damage is in sets that `score` makes, and how."""
    near = [name for name in sets if name.startswith(NEAREST_PREFIX)]
    other = [name for name in sets if name not in near]
    remedies = []
    if other:
        remedies.append(f"score sets {', '.join(other)} are damaged, run `score` with their predictors again")
    if near:
        remedies.append(f"distances {', '.join(near)} are damaged, run `score --nearest` again")
    if remedies:
        raise UserError("; ".join(remedies) + ".")


def _places(folder: Path, own: str, name: str) -> dict[str, Path]:
    """The files of a unit that this module makes, by what `damaged_units` calls them."""
    return {"shard": shard_path(folder, name), own: score_path(folder, own, name)}


def _lend_whole(folder: Path, aside: Path, own: str, name: str, damaged: list[str]) -> None:
    """Let the worker find what is whole of a damaged unit; where there are no links it makes that again, in vain."""
    for kind, path in _places(folder, own, name).items():
        if kind not in damaged and path.is_file():
            link = _places(aside, own, name)[kind]
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                link.symlink_to(path.resolve())


def _take_unit(
    folder: Path, aside: Path, own: str, result: UnitResult, damaged: list[str], stated: dict[Path, str]
) -> list[Path]:
    """Put the damaged files of a unit in their places; returns those that come out otherwise than stated."""
    digests, otherwise = {"shard": result.sha256, own: result.score_sha256}, []
    for kind, path in _places(folder, own, result.unit.name).items():
        if kind in damaged and not _take(_places(aside, own, path.name)[kind], path, digests[kind] == stated[path]):
            otherwise.append(path)
    return otherwise


def _take(file: Path, place: Path, same: bool) -> bool:
    """Put a file in its place if it is the one that belongs there."""
    if same:
        place.parent.mkdir(parents=True, exist_ok=True)
        commit_file(file, place)
    else:
        file.unlink()
    return same


def _repair_pilots(
    folder: Path, aside: Path, pilots: dict[str, str], worker: PilotWorker
) -> tuple[list[str], list[Path]]:
    """Names of the pilots that were mended, and those that come out otherwise."""
    mended, otherwise = [], []
    for name, sha256 in pilots.items():
        path, known = folder / PILOT_FOLDER / name, _PILOT.fullmatch(name)
        if known is None:
            raise UserError(f"{path} is no name of a pilot; restore the manifest.")
        if matches(path, sha256):
            continue
        same = worker(int(known[1])).sha256 == sha256
        if _take(aside / PILOT_FOLDER / name, path, same):
            mended.append(name)
        else:
            otherwise.append(path)
    return mended, otherwise

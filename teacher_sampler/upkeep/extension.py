"""How a dataset may grow: which numbers of fakes a folder may come to hold, what of it stays, and the way back.

`run.json` says how many fakes of each label were asked for last, the manifest how many there are.  Where the first is
larger, a run that extends the dataset was begun: it goes on with the same request, and one for the old number ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from image_data.fake.manifest import (
    MANIFEST_FILE,
    RUN_FILE,
    Manifest,
    read_manifest,
    run_file_of,
    score_path,
    shard_path,
)
from image_data.fake.sealed import SealedBytes
from image_data.fake.verify import PILOT_FOLDER
from runtime.atomic import write_bytes
from runtime.digests import file_sha256
from runtime.errors import UserError
from teacher_sampler.sampling.finish import remove_surplus
from teacher_sampler.sampling.plan import RunContent, Unit
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.units import MadeUnit, UnitResult, UnitWorker

_REMEDY = "run `repair` on it, then extend it"


def check_size(out: Path, per_label: int, extend: bool) -> None:
    """May a folder that was begun come to hold `per_label` fakes of each label?  UserError where not.

    It may have the number that it was begun with, or that of its finished dataset, which ends a run that extends it;
    and with `extend` any larger one than its dataset has (where none is finished, than it was begun with).
    """
    _, begun = load_run(out)
    finished = finished_size(out)
    held = begun if finished is None else finished
    if per_label in (begun, held) or (extend and per_label > held):
        return
    state = "was begun with" if held == begun else "holds"
    remedy = "give --extend to add some, or choose another folder"
    if per_label < held:
        remedy = "--extend only adds, select fewer of them instead" if extend else "select fewer of them instead"
    raise UserError(f"{out} {state} {held} fakes of each label, and {per_label} are asked for; {remedy}.")


def finished_size(out: Path) -> int | None:
    """How many fakes of each label the folder's finished dataset has; None where there is none."""
    return int(read_manifest(out).content["per_label"]) if (out / MANIFEST_FILE).is_file() else None


def is_complete(out: Path, per_label: int) -> bool:
    """Whether the folder is a finished dataset of so many fakes of each label, and no run has begun to extend it."""
    return finished_size(out) == per_label and (not (out / RUN_FILE).is_file() or load_run(out)[1] == per_label)


def end_extension(out: Path, content: RunContent) -> None:
    """Give up what a run has added that did not end: the folder is its finished dataset again, byte for byte."""
    manifest = read_manifest(out)
    remove_surplus(out, content, {entry.name for entry in manifest.shards})
    write_bytes(out / RUN_FILE, run_file_of(manifest))  # the last: until here the same request does it again


def check_pilots(out: Path, manifest: Manifest) -> None:
    """UserError where a pilot of the finished dataset is not there as it was: another would set other ceilings."""
    for name, sha256 in manifest.content["pilots"].items():
        path = out / PILOT_FOLDER / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise UserError(f"{path} of the finished dataset is missing or damaged; {_REMEDY}.")


@dataclass(frozen=True, eq=False)
class ExtendingWorker(UnitWorker):
    """Makes the units of a run that extends a dataset, and never a file anew that the manifest lists.

    `finished`: how many units of each label group the manifest lists; they are the first ones.
    """

    finished: tuple[int, ...]

    def compute(self, unit: Unit) -> MadeUnit:
        """UserError where a file of a listed unit is missing or damaged: what this machine makes might be other."""
        shard = shard_path(self.folder, unit.name)
        listed = unit.index < self.finished[unit.group]
        if listed and not shard.is_file():
            raise UserError(f"{shard} of the finished dataset is missing; {_REMEDY}.")
        computed = super().compute(unit)
        scores = score_path(self.folder, self.content.predictor_digest, unit.name)
        for path, file in ((shard, computed.shard), (scores, computed.scores)):
            if listed and isinstance(file, SealedBytes):
                raise UserError(f"{path} of the finished dataset is missing or damaged; {_REMEDY}.")
        return computed


def listed_units(manifest: Manifest, groups: int) -> tuple[int, ...]:
    """How many units of each label group the manifest lists."""
    units = [0] * groups
    for entry in manifest.shards:
        units[entry.group] = max(units[entry.group], entry.index + 1)
    return tuple(units)


def check_listed(out: Path, content: RunContent, manifest: Manifest, results: Mapping[Unit, UnitResult]) -> None:
    """UserError naming the file where one that the manifest lists is whole in itself, and yet not the one listed."""
    own = content.predictor_digest
    results_by_name = {unit.name: result for unit, result in results.items()}
    for entry in manifest.shards:
        if results_by_name[entry.name].sha256 != entry.sha256:
            raise UserError(f"{shard_path(out, entry.name)} is not that of the finished dataset; {_REMEDY}.")
    for score in manifest.scores.get(own, []):
        if results_by_name[score.name].score_sha256 != score.sha256:
            raise UserError(f"{score_path(out, own, score.name)} is not that of the finished dataset; {_REMEDY}.")

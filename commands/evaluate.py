"""Measure generators and fakes against real images by every metric that is registered.

The features come from InceptionV3 where its weights file is given or cached (then the score is called FID), otherwise
from an independent judge network that neither filtered nor labelled anything (then it is called FD-judge).
The kinds of images are measured side by side where there is more than one worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.builders import load_data
from commands.support.lineage import checked, seen_of, seen_of_fakes
from commands.support.options import DataOptions
from commands.support.workspace import SEAL, artefact, artefact_digest, resolve_input
from image_data.seen_names import STUDENT
from runtime.errors import UserError

_REMEDY = "restore it, or remove it and run the same command again"
ROLE = "training and validation images"


class Options(DataOptions):
    """Flags of evaluate; whatever of teacher, fakes and student is there is measured."""

    teacher: Path | None = Field(None, description="Folder of the teacher.")
    fakes: Path | None = Field(None, description="Folder of the fakes.")
    student: Path | None = Field(None, description="Folder of the student generator.")
    images_per_class: int = Field(500, ge=1, description="Generated images of each class (or of 10 label values).")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that the error filter keeps.")
    inception: Path | None = Field(None, description="Weights file of pytorch-fid's InceptionV3.")
    judge_steps: int = Field(900, ge=1, description="Steps of the judge's training.")
    judge_seed: int = Field(100, ge=0, description="Seed of the judge's training.")


@dataclass(frozen=True)
class _Measuring:
    """Measures one kind of images; picklable, so that worker processes can do it."""

    options: Options
    folders: dict[str, Path | None]

    def __call__(self, kind: str) -> tuple[str, dict[str, Any]]:
        from commands.reporting.measuring import image_set, real_reference
        from evaluation.quality import image_quality
        from runtime.devices import pick_device

        data, judge, network = _instruments(self.options)
        images = image_set(kind, self.options, self.folders, pick_device(self.options.device))
        real = real_reference(data)
        return kind, image_quality(images, real, data.label_space, network, judge=judge, real_role=ROLE)


@lru_cache(maxsize=1)
def _real_images(options: Options) -> Any:
    """All of them, once in each process."""
    return load_data(options, real_per_class=None)


@lru_cache(maxsize=1)
def _instruments(options: Options) -> tuple[Any, Any, Any]:
    """Real data, judge and feature network, once in each process."""
    from commands.reporting.measuring import obtain_judge
    from evaluation.features import choose_feature_network
    from runtime.devices import pick_device

    device = pick_device(options.device)
    data = _real_images(options)
    judge = obtain_judge(options, data, device)
    return data, judge, choose_feature_network(judge, options.inception, device)


def run(options: Options) -> dict[str, Any]:
    """Train the judge where there is none yet, draw images, compare."""
    from classifiers.leak_guard import seen_line
    from commands.reporting.measuring import check_comparable, set_names
    from commands.support.engine import make_engine
    from evaluation.inception import load_inception
    from image_data.seen import merge
    from runtime.devices import pick_device, set_threads
    from runtime.safe_files import read_sealed_json, write_sealed_json

    set_threads(options.workers)
    folders = {kind: _folder(kind, options) for kind in ("teacher", "fakes", "student")}
    if not any(folders.values()):
        raise UserError(f"nothing to evaluate in {options.workspace}; give --teacher, --fakes or --student.")
    parents = {kind: artefact_digest(kind, folder) for kind, folder in folders.items() if folder}
    data = _real_images(options)
    check_comparable(options, folders, data)
    seen = _seen(folders)
    checked(options, data, merge(seen.values()), test=False, judged=True)
    if options.inception is not None:
        load_inception(options.inception, pick_device(options.device))
    with artefact("evaluate", "evaluation", options, {"data": data.digest, **parents}) as output:
        result_file = output.folder / "result.json"
        if not output.finished:
            _instruments(options)  # the judge is trained before several processes want it
            names = set_names(options, folders)
            engine = make_engine(options, output.folder, min(options.workers, len(names)))
            rows = dict(engine.map(_Measuring(options, folders), names))
            lines = {kind: seen_line(data, parts, "val") for kind, parts in seen.items()}
            write_sealed_json(result_file, {name: {**rows[kind], "seen": lines[kind]} for kind, name in names.items()})
    _instruments.cache_clear()
    _real_images.cache_clear()
    return {"evaluation": str(output.folder), "rows": read_sealed_json(result_file, _REMEDY)}


def _seen(folders: dict[str, Path | None]) -> dict[str, Any]:
    """What the parts behind each kind of measured images have seen."""
    parts = {}
    if folders["teacher"] is not None:
        parts["teacher"] = seen_of("teacher", folders["teacher"])
    if folders["fakes"] is not None:
        parts["accepted"] = parts["kept"] = seen_of_fakes(folders["fakes"])
    if folders["student"] is not None:
        parts["student"] = seen_of("student", folders["student"], STUDENT)
    return parts


def _folder(kind: str, options: Options) -> Path | None:
    given = getattr(options, kind)
    if given is None and not (options.workspace / kind / "latest" / SEAL[kind]).is_file():
        return None
    return resolve_input(kind, given, options)


def show(result: dict[str, Any]) -> str:
    """One line a set of images, why numbers are missing, and what the parts behind the images have seen."""
    from evaluation.quality import quality_table, refusals
    from evaluation.table import table_text

    rows = result["rows"]
    seen = dict.fromkeys(row["seen"] for row in rows.values() if "seen" in row)
    closing = f"against {ROLE}; details in {result['evaluation']}/result.json"
    return "\n".join([table_text(quality_table(rows)), *refusals(rows), *seen, closing])

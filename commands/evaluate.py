"""Measure generators and fakes against real images: Fréchet and kernel distance, per class too, and label agreement.

The features come from InceptionV3 where its weights file is given or cached (then the score is called FID), otherwise
from an independent judge network that neither filtered nor labelled anything (then it is called FD-judge).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.options import DataOptions
from commands.parts import load_data
from commands.workspace import SEAL, artefact, artefact_digest, resolve_input
from runtime.errors import UserError

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


def run(options: Options) -> dict[str, Any]:
    """Train the judge where there is none yet, draw images, compare."""
    from commands.measuring import image_sets, obtain_judge, real_reference
    from evaluation.quality import choose_feature_network, image_quality
    from runtime.atomic import write_json
    from runtime.devices import pick_device, set_threads

    device = pick_device(options.device)
    set_threads(options.workers)
    data = load_data(options, real_per_class=None)
    found = {kind: _folder(kind, options) for kind in ("teacher", "fakes", "student")}
    if not any(found.values()):
        raise UserError(f"nothing to evaluate in {options.workspace}; give --teacher, --fakes or --student.")
    parents = {kind: artefact_digest(kind, folder) for kind, folder in found.items() if folder}
    judge = obtain_judge(options, data, device)
    with artefact("evaluate", "evaluation", options, {"data": data.digest, **parents}) as made:
        result_file = made.folder / "result.json"
        if not made.finished:
            network = choose_feature_network(judge, options.inception, device)
            real = real_reference(data)
            rows = {
                name: image_quality(images, real, data.label_space, network, judge=judge, real_role=ROLE)
                for name, images in image_sets(options, found, device).items()
            }
            write_json(result_file, rows)
    return {"evaluation": str(made.folder), "rows": json.loads(result_file.read_text())}


def _folder(kind: str, options: Options) -> Path | None:
    given = getattr(options, kind)
    if given is None and not (options.workspace / kind / "latest" / SEAL[kind]).is_file():
        return None
    return resolve_input(kind, given, options)


def show(result: dict[str, Any]) -> str:
    """One line a set of images."""
    lines = []
    for name, row in result["rows"].items():
        score = f"{row['score']:.2f}" if row["score"] is not None else f"refused ({row['score_refused']})"
        kernel = row["kernel_distance"]
        agreement = row["label_agreement"]
        lines.append(
            f"{name:22s} {row['metric']} {score}  KID {kernel['mean']:.4f} ± {kernel['standard_error']:.4f}  "
            f"judge {agreement['measure']} {agreement['value']:.4f}  ({row['images']['fake']} images)"
        )
    return "\n".join([*lines, f"against {ROLE}; details in {result['evaluation']}/result.json"])

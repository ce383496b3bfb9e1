"""Measure generators and fakes against real images: Fréchet and kernel distance, per class too, and label agreement.

The features come from InceptionV3 where its weights file is given or cached (then the score is called FID), otherwise
from an independent judge network that neither filtered nor labelled anything (then it is called FD-judge).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from commands.options import DataOptions
from commands.parts import load_data, load_generator
from commands.workspace import SEAL, artefact, artefact_digest, resolve_input
from runtime.errors import UserError

if TYPE_CHECKING:
    from evaluation.judge import Judge
    from image_data.real import RealData
    from image_data.sources import ImageSource

ROLE = "training and validation images"


class Options(DataOptions):
    """Flags of evaluate; whatever of teacher, fakes and student is there is measured."""

    teacher: Path | None = Field(None, description="Folder of the teacher.")
    fakes: Path | None = Field(None, description="Folder of the fakes.")
    student: Path | None = Field(None, description="Folder of the student generator.")
    images_per_class: int = Field(500, ge=1, description="Generated images of each class (or of 10 label values).")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that the error filter keeps.")
    inception: Path | None = Field(None, description="Weights file of pytorch-fid's InceptionV3.")
    judge_seed: int = Field(100, ge=0, description="Seed of the judge's training.")


def run(options: Options) -> dict[str, Any]:
    """Train the judge where there is none yet, draw images, compare."""
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


def obtain_judge(options: Options, data: RealData, device: Any) -> Judge:
    """The judge of this dataset: trained once on all training and validation images, of its own architecture."""
    from evaluation.judge import load_judge, train_judge
    from runtime.digests import digest_of

    name = digest_of({"data": data.digest, "seed": options.judge_seed})[:8]
    folder = options.workspace / "judge" / name
    train_judge(
        real_reference(data),
        data.label_space,
        folder,
        device,
        options.judge_seed,
        allowed_augmentations=data.allowed_augmentations,
        trained_on={"name": data.name, "digest": data.digest},
    )
    return load_judge(folder, device)


def real_reference(data: RealData) -> ImageSource:
    """The real images that generated ones are held against."""
    from image_data.sources import Concatenation

    return Concatenation([data.train, data.val])


def image_sets(options: Options, found: dict[str, Path | None], device: Any) -> dict[str, Any]:
    """Equally many images of every kind: all the teacher makes, accepted, kept by rho, and the student's."""
    import numpy as np

    from filters import select
    from image_data.fake import open_fakes

    sets: dict[str, Any] = {}
    for kind in ("teacher", "student"):
        folder = found[kind]
        if folder is not None:
            sets[kind] = draw_images(load_generator(folder, device), options.images_per_class, options.seed)
    if found["fakes"] is not None:
        fakes = open_fakes(found["fakes"])
        classes = fakes.label_space.kind == "classes"
        labels = len(np.unique(fakes.labels, axis=0))
        per_label = options.images_per_class if classes else max(1, 10 * options.images_per_class // labels)
        rho = options.rho if fakes.score_sets() else 1.0
        kept = select(fakes, rho=rho, scope="class" if classes else "global")
        sets["accepted"] = _subset(fakes, np.arange(len(fakes)), per_label, options.seed)
        sets["kept"] = _subset(fakes, kept.rows, per_label, options.seed)
    names = {
        "teacher": "teacher",
        "accepted": "accepted",
        "kept": f"accepted, rho {options.rho:g}",
        "student": "student",
    }
    return {name: sets[kind] for kind, name in names.items() if kind in sets}


def _subset(fakes: Any, rows: Any, per_label: int, seed: int) -> ImageSource:
    """Up to `per_label` of these rows of each label, drawn without replacement."""
    import numpy as np

    from image_data.fake import Selection
    from runtime.seeds import numpy_generator

    rng = numpy_generator(seed, "evaluated fakes")
    _, group = np.unique(fakes.labels[rows], axis=0, return_inverse=True)
    drawn = [rng.permutation(rows[group == index])[:per_label] for index in range(int(group.max()) + 1)]
    chosen = np.sort(np.concatenate(drawn))
    return fakes.view(Selection(chosen, fakes.labels[chosen], {"evaluated": per_label, "seed": seed}, fakes.digest))


def draw_images(generator: Any, per_label: int, seed: int) -> ImageSource:
    """Fresh images of a generator: classes in equal numbers, or ten evenly spaced label values."""
    import numpy as np

    from evaluation.generated import generated_images
    from runtime.seeds import derive_seed

    space = generator.label_space
    values = np.arange(space.width) if space.kind == "classes" else np.linspace(space.low, space.high, 10)
    return generated_images(generator, np.repeat(values, per_label), derive_seed(seed, "evaluation"))


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

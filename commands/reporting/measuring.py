"""What evaluation and the report look at: the judge, the real reference, and equally many images of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from commands.support.lineage import record_seen
from commands.support.teachers import teacher_behind
from image_data.seen import Seen, merge
from image_data.seen_names import JUDGE
from runtime.errors import UserError

if TYPE_CHECKING:
    from evaluation.judge import Judge
    from image_data.real import RealData
    from image_data.sources import ImageSource


def obtain_judge(options: Any, data: RealData, device: Any) -> Judge:
    """The judge of this dataset: trained once on all training and validation images, of its own architecture."""
    from evaluation.judge import JudgeSettings, load_judge, train_judge
    from runtime.digests import digest_of

    name = digest_of({"data": data.digest, "seed": options.judge_seed, "steps": options.judge_steps})[:8]
    folder = options.workspace / "judge" / name
    seen = {} if (folder / "card.json").is_file() else record_seen(folder, _seen_by_judge(data))
    train_judge(
        real_reference(data),
        data.label_space,
        folder,
        device,
        options.judge_seed,
        settings=JudgeSettings(steps=options.judge_steps),
        allowed_augmentations=data.allowed_augmentations,
        trained_on={"name": data.name, "digest": data.digest, **seen},
    )
    return load_judge(folder, device)


def _seen_by_judge(data: RealData) -> Seen:
    """It is fitted on validation images too: it judges generated images and never a classifier."""
    return merge([data.seen_by(JUDGE, val=False), Seen.of(JUDGE, train=data.hashes("val"))])


def check_comparable(options: Any, folders: dict[str, Path | None], data: RealData) -> None:
    """UserError where teacher, fakes or student have other labels or images of another shape than the real data."""
    import torch

    from commands.support.selection import data_name
    from image_data.fake import open_fakes
    from image_data.label_meeting import LabelHolder, meet

    real = LabelHolder("data", data_name(options), data.label_space)
    wanted = data.train.pixels.shape[1:]
    for kind, folder in folders.items():
        if folder is None:
            continue
        if kind == "fakes":
            fakes = open_fakes(folder)
            space, shape, asked = fakes.label_space, fakes.image_shape, fakes.manifest.labels
        else:
            behind = folders["fakes"] if kind == "teacher" else None
            generator = teacher_behind(behind, folder, torch.device("cpu"))
            size, space = generator.card.resolution_px, generator.label_space
            shape, asked = (generator.card.channels, size, size), None
        holder = LabelHolder("fakes" if kind == "fakes" else "teacher", f"--{kind} {folder}", space)
        meet(real, holder, asked)
        if tuple(shape) != wanted:
            given, need = ("x".join(str(side) for side in sides) for sides in (shape, wanted))
            raise UserError(f"--{kind} {folder} has images of {given}, {real.name} of {need}; use --resolution.")


def real_reference(data: RealData) -> ImageSource:
    """The real images that generated ones are held against."""
    from image_data.sources import Concatenation

    return Concatenation([data.train, data.val])


def set_names(options: Any, folders: dict[str, Path | None]) -> dict[str, str]:
    """The kinds of images that can be measured, with their names in a table, in the table's order."""
    from image_data.fake import open_fakes

    names = {}
    if folders["teacher"] is not None:
        names["teacher"] = "teacher"
    if folders["fakes"] is not None:
        names["accepted"] = "accepted"
        if options.rho < 1 and open_fakes(folders["fakes"]).score_sets():
            names["kept"] = f"accepted, rho {options.rho:g}"
    if folders["student"] is not None:
        names["student"] = "student"
    return names


def image_set(kind: str, options: Any, folders: dict[str, Path | None], device: Any) -> ImageSource:
    """Images of one kind: all the teacher makes, accepted, kept by rho, or the student's; equally many of each kind."""
    from evaluation.generated import draw_images
    from filters import select
    from image_data.fake import open_fakes

    if kind in ("teacher", "student"):
        folder = folders[kind]
        if folder is None:
            raise ValueError(f"there is no {kind} to measure")
        generator = teacher_behind(folders["fakes"] if kind == "teacher" else None, folder, device)
        return draw_images(generator, options.images_per_class, options.seed)
    if folders["fakes"] is None:
        raise ValueError("there are no fakes to measure")
    fakes = open_fakes(folders["fakes"])
    classes = fakes.label_space.kind == "classes"
    labels = len(np.unique(fakes.labels, axis=0))
    per_label = options.images_per_class if classes else max(1, 10 * options.images_per_class // labels)
    rows = np.arange(len(fakes))
    if kind == "kept":
        rows = select(fakes, rho=options.rho, scope="class" if classes else "global").rows
    return _subset(fakes, rows, per_label, options.seed)


def _subset(fakes: Any, rows: Any, per_label: int, seed: int) -> ImageSource:
    """Up to `per_label` of these rows of each label, drawn without replacement."""
    from image_data.fake import Selection
    from runtime.seeds import numpy_generator

    rng = numpy_generator(seed, "evaluated fakes")
    _, group = np.unique(fakes.labels[rows], axis=0, return_inverse=True)
    drawn = [rng.permutation(rows[group == index])[:per_label] for index in range(int(group.max()) + 1)]
    chosen = np.sort(np.concatenate(drawn))
    return fakes.view(Selection(chosen, fakes.labels[chosen], {"evaluated": per_label, "seed": seed}, fakes.digest))

"""Distil a light student generator from a dataset of fakes: it learns the teacher's map (z, y) -> image.

The teacher itself is not needed, unless `--white-box` adds feature terms from inside it.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from commands.support.builders import load_data, load_generator
from commands.support.lineage import record_seen, seen_of, seen_of_fakes
from commands.support.options import DataOptions, flag, settings_from, settings_options
from commands.support.teachers import insides_of
from commands.support.workspace import artefact, artefact_digest, resolve_input
from image_data.seen_names import STUDENT
from runtime.errors import UserError
from student_trainer.networks import TinyGanSettings
from student_trainer.settings import StudentSettings
from white_box.settings import WhiteBoxSettings

if TYPE_CHECKING:
    from image_data.fake import FakeDataset
    from image_data.real import RealData
    from image_data.seen import Seen

_Settings: Any = settings_options(StudentSettings, "StudentGeneratorFlags", exclude={"seed", "truncation"})
_WhiteBox: Any = settings_options(WhiteBoxSettings, "WhiteBoxFlags", exclude={"seed"})


class Options(_Settings, _WhiteBox, DataOptions):
    """Flags of train-student."""

    aliases = {
        "network": "generator",
        **{field.name: f"generator.{field.name}" for field in fields(TinyGanSettings)},
        "discriminator_width": "discriminator.width",
        "lr_warm_up": "warmup_fraction",
        "games_from": "adversarial_from",
        "adversarial_fresh_weight": "adversarial_unpaired_weight",
        "discriminator_fresh_weight": "discriminator_unpaired_weight",
        "log_every": "log_every_steps",
        "checkpoint_every": "checkpoint_every_steps",
        "checkpoint_seconds": "checkpoint_every_seconds",
    }

    fakes: Path | None = Field(None, description="Folder of the fakes, sampled with their latents.")
    teacher: str | None = Field(None, description="The teacher (for --white-box and the comparison).")
    white_box: bool = Field(False, description="Add feature terms from inside a local teacher.")
    real: bool = Field(False, description="Unpaired images are compared with real ones, not with the teacher's.")


def check(options: Options) -> None:
    """UserError where a flag of the white box would do nothing."""
    given = [name for name in _WhiteBox.model_fields if getattr(options, name) != _WhiteBox.model_fields[name].default]
    if given and not options.white_box:
        raise UserError(f"{flag(given[0])} acts with --white-box only; give both or neither.")


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done; prints sizes and speeds beside the teacher's."""
    import numpy as np

    from image_data.fake import open_fakes
    from runtime.ranks import join_ranks
    from student_trainer import check_student, train_student
    from student_trainer.needs import student_needs

    ranks, device = join_ranks(options.device, options.batch_size)
    fakes = resolve_input("fakes", options.fakes, options)
    dataset = open_fakes(fakes)
    if not dataset.has_latents:
        raise UserError(
            f"--fakes {fakes} has no latents, and a student learns (latents, label) -> image; sample a teacher with "
            f"them and --store-latents, or train classifiers from these fakes (distill)."
        )
    made_by = dataset.manifest.content["teacher"]
    parents = {"fakes": artefact_digest("fakes", fakes)}
    data = _real_images(options, dataset) if options.real else None
    if data is not None:
        parents["data"] = data.digest
    reference = _reference(options)
    teacher = None if reference is None else load_generator(reference, device)
    settings = settings_from(options, StudentSettings, truncation=made_by["truncation"].get("std"))
    real = (data.train, data.allowed_augmentations) if data is not None else (None, ())
    methods, insides = _white_box(options, fakes, dataset, teacher, reference)
    if insides is not None:
        parents["teacher"] = insides.card.source_digest
    untrained = check_student(dataset.view(), real[0], dataset.label_space, settings, real[1], methods, insides)
    say_canvas(untrained, dataset.image_shape[1])
    latent_dim, shape = dataset.view().latents(np.array([0])).shape[1], dataset.image_shape
    held = 0 if data is None else data.train.pixels.nbytes
    needs = partial(student_needs, settings, dataset.label_space, shape, latent_dim, dataset.labels[:1], held, device)
    with artefact("train-student", "student", options, parents, ranks=ranks, needs=needs) as output:
        if not output.finished:
            seen = record_seen(output.folder, *_seen(options, fakes, data, reference)) if ranks.main else {}
            train_student(
                dataset.view(),
                real[0],
                dataset.label_space,
                settings,
                output.folder,
                device,
                methods=methods,
                teacher=insides,
                allowed_augmentations=real[1],
                trained_on={"fakes": dataset.digest, "real": None if data is None else data.describe(), **seen},
                ranks=ranks,
            )
    if not ranks.main:
        return {}
    from evaluation.cost import generator_costs

    student = load_generator(output.folder, device)
    return {
        "student": str(output.folder),
        "measured_quality": student.card.measured_quality,
        "cost": generator_costs({"teacher": teacher, "student": student}),
    }


def say_canvas(student: Any, resolution_px: int) -> None:
    """Say where the student draws larger images and gives their middle."""
    from runtime.progress import say

    canvas = getattr(student, "canvas_px", resolution_px)
    if canvas != resolution_px:
        say(f"the student draws {canvas} x {canvas} pixels and gives the middle {resolution_px} x {resolution_px}")


def _seen(options: Options, fakes: Path, data: RealData | None, reference: Any) -> list[Seen]:
    """What the student's own images, its fakes and the teacher whose insides it looks at have seen."""
    from image_data.seen import Seen

    own = Seen.of(STUDENT) if data is None else data.seen_by(STUDENT, val=False)
    inside = [seen_of("teacher", reference)] if options.white_box else []
    return [own, seen_of_fakes(fakes), *inside]


def _real_images(options: Options, fakes: FakeDataset) -> RealData:
    """The real images of --real; a UserError where their labels or shape are not those of the fakes."""
    from image_data.label_meeting import LabelHolder, meet

    data = load_data(options)
    real = LabelHolder("data", f"--data {options.data}", data.label_space)
    meet(LabelHolder("fakes", f"--fakes {fakes.path}", fakes.label_space), real, data.train.labels)
    if tuple(fakes.image_shape) != data.train.pixels.shape[1:]:
        raise UserError(
            f"--fakes {fakes.path} and --data {options.data} differ in size; give --resolution or --no-real."
        )
    return data


def _white_box(options: Options, fakes: Path, dataset: Any, teacher: Any, reference: Any) -> tuple[Any, Any]:
    """(methods, the teacher that they look into), or nothing; UserError where it cannot be had for these fakes."""
    if not options.white_box:
        return (), None
    if teacher is None:
        raise UserError("--white-box needs the teacher's insides; give --teacher DIR.")
    insides_of(teacher, "--white-box")
    if dataset.manifest.content["teacher"]["adaptation"]:
        raise UserError(f"--white-box: --fakes {fakes} were sampled through a label map or resized; leave it out.")
    if artefact_digest("teacher", reference) != dataset.manifest.content["settings"]["teacher_digest"]:
        raise UserError(f"--white-box: --fakes {fakes} come from another teacher; give theirs with --teacher DIR.")
    return settings_from(options, WhiteBoxSettings).methods(), teacher


def _reference(options: Options) -> Any:
    """The teacher asked for, else the workspace's; None where there is none (it is not needed)."""
    from commands.support.workspace import SEAL

    latest = options.workspace / "teacher" / "latest"
    if options.teacher is not None:
        return resolve_input("teacher", options.teacher, options)
    return latest.resolve() if (latest / SEAL["teacher"]).is_file() else None


def show(result: dict[str, Any]) -> str:
    """Where the student lies, how good it is, and the table of costs."""
    from evaluation.cost import cost_text

    quality = ", ".join(f"{key} {value}" for key, value in result["measured_quality"].items())
    return "\n".join([f"student: {result['student']}", f"measured: {quality}", cost_text(result["cost"])])

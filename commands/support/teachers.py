"""What the commands share that ask a teacher for images: which teacher, and how the user's labels and sizes differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from commands.support.builders import load_generator
from commands.support.options import Channels
from commands.support.workspace import artefact_digest, resolve_input
from runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    from interfaces import Teacher
    from teacher_sampler.adapted import Adaptation


class TeacherOptions(BaseModel):
    """Flags of commands that ask a teacher for images."""

    teacher: str | None = Field(None, description="Folder of the teacher, or the http(s) address of a teacher service.")
    label_map: Path | None = Field(None, description="YAML: which of the teacher's classes are which of yours.")
    image_size: int | None = Field(None, ge=8, le=1024, description="Resize the teacher's images to so many pixels.")
    image_channels: Channels | None = Field(None, description="Turn the teacher's images into grey (1) or colour.")


class ChosenTeacher:
    """A teacher that is not loaded yet: `reference`, `adaptation`, `card` as the user sees it, `digest`."""

    def __init__(self, options: Any) -> None:
        import torch

        from runtime.devices import set_threads
        from teacher_sampler.adapted import adapt

        set_threads(1)
        self.reference: str | Path = resolve_input("teacher", options.teacher, options)
        teacher = load_generator(self.reference, torch.device("cpu"))
        self.adaptation = adaptation_of(options, teacher)
        self.digest = self.adaptation.identity(artefact_digest("teacher", self.reference))
        self.teacher = adapt(teacher, self.adaptation)
        self.card = self.teacher.card
        self.label_space = self.teacher.label_space


def adaptation_of(options: Any, teacher: Teacher) -> Adaptation:
    """The flags' label map and image shape; a flag that asks for what the teacher has already changes nothing."""
    from teacher_sampler.adapted import Adaptation, read_label_map

    card = teacher.card
    label_map = None if options.label_map is None else read_label_map(options.label_map, teacher.label_space)
    size = None if options.image_size == card.resolution_px else options.image_size
    channels = None if options.image_channels == card.channels else options.image_channels
    return Adaptation(label_map, size, channels)


def adapted_teacher(reference: str | Path, adaptation: Adaptation, device: torch.device) -> Teacher:
    """The teacher at work, as its user sees it."""
    from teacher_sampler.adapted import adapt

    return adapt(load_generator(reference, device), adaptation)


def teacher_behind(fakes: Path | None, reference: str | Path, device: torch.device) -> Teacher:
    """The teacher as it was seen when these fakes were sampled from it; as it is where they are another's, or none."""
    from image_data.fake import open_fakes
    from teacher_sampler.adapted import Adaptation

    if fakes is None:
        return load_generator(reference, device)
    content = open_fakes(fakes).manifest.content
    adaptation = Adaptation.from_json(content["teacher"]["adaptation"])
    own = adaptation.identity(artefact_digest("teacher", reference)) == content["settings"]["teacher_digest"]
    return adapted_teacher(reference, adaptation if own else Adaptation(), device)


def insides_of(teacher: Any, asked_by: str) -> Any:
    """The teacher, if its network is at hand; UserError naming the flag that needs it otherwise."""
    from training.generator_folder import NetworkGenerator

    if not isinstance(teacher, NetworkGenerator):
        kind = teacher.card.architecture
        raise UserError(f"{asked_by} needs the teacher's insides, and this one is a black box ({kind}); leave it out.")
    return teacher


def check_fits(kind: str, folder: Path, teacher: ChosenTeacher, asked: Any = None) -> None:
    """UserError where a filter or predictor looks at other images or labels than this teacher's; a warning where a
    filter was fitted for another teacher.  asked: the labels that are sampled.
    """
    from image_data.label_meeting import LabelHolder, meet, predictor_holder
    from image_data.labels import label_space_from_json
    from runtime.progress import say
    from runtime.safe_files import read_sealed_json

    card = read_sealed_json(folder / "card.json", f"restore it, or make the {kind} again")
    seen = card.get("extractor", card)
    if not isinstance(seen, dict) or not {"channels", "resolution_px"} <= set(seen) or "label_space" not in card:
        raise UserError(f"{folder / 'card.json'} is not the card of a {kind}; give another --{kind}.")
    channels, px = teacher.card.channels, teacher.card.resolution_px
    if (seen["channels"], seen["resolution_px"]) != (channels, px):
        other = f"another --{kind}"
        if card.get("foreign"):
            other = f"import the predictor with --image-size {px} --image-channels {channels}"
        raise UserError(
            f"--{kind} {folder} looks at {seen['channels']} x {seen['resolution_px']} x {seen['resolution_px']} "
            f"images and the teacher makes {channels} x {px} x {px}; give --image-size and --image-channels, "
            f"or {other}."
        )
    network = predictor_holder(f"--{kind} {folder}", card, label_space_from_json(card["label_space"]))
    meet(LabelHolder("teacher", f"--teacher {teacher.reference}", teacher.label_space), network, asked)
    if kind == "filter" and card.get("teacher") != teacher.card.source_digest:
        say(f"warning: the filter {folder} was fitted for another teacher; its ratios do not belong to this one")


def summary(folder: Path) -> dict[str, Any]:
    """What a user wants to know of a generator's folder."""
    from training.generator_folder import read_card

    card = read_card(folder)
    return {
        "architecture": card.architecture,
        "resolution_px": card.resolution_px,
        "channels": card.channels,
        "labels": _labels_text(card.label_space),
        "latent": card.latent.get("dimension", "none"),
        "truncation": card.truncation or "none",
        "digest": card.source_digest[:8],
        "measured_quality": card.measured_quality,
    }


def _labels_text(space: dict[str, Any]) -> str:
    if space["kind"] == "classes":
        return f"{len(space['names'])} class{'es' if len(space['names']) > 1 else ''}"
    return f"{space['low']:g} to {space['high']:g} {space['unit']}".strip()

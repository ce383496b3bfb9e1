"""From a program in a file (ONNX, torch.export) to a teacher folder with a copy of it.

The program's own declaration says what each input is for, where possible; a first run shows the images' size,
and that an image follows from its own latents and label alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from image_data.labels import ClassLabels, ContinuousLabels
from runtime.atomic import commit_copy
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files.exported_program import PROGRAM_FILE, ExportedProgram
from runtime.safe_files.onnx_file import MODEL_FILE, OnnxProgram
from runtime.safe_files.program import Program, ProgramInput
from runtime.seeds import torch_generator
from runtime.trial import run_limited
from teacher_sampler.black_box.programs import CallConvention, LabelForm, program_values
from teacher_sampler.importers.registry import (
    IMPORTERS,
    ImportedTeacher,
    ImportRequest,
    class_label_names,
    no_truncation,
    require,
    std_truncation,
)

_LATENT_NAMES = frozenset({"z", "latent", "latents", "noise"})
_LABEL_NAMES = frozenset(
    {"y", "c", "label", "labels", "class", "classes", "class_label", "class_labels", "onehot", "one_hot", "cond",
     "condition"}
)  # fmt: skip
_STATIC_NAMES = frozenset(
    {"psi", "truncation", "truncation_psi", "truncation_cutoff", "trunc", "noise_mode", "alpha", "step", "temperature"}
)
_LARGEST_PX = 1024
_TOLERANCE = 1e-3  # of the range from black to white; a quarter of a grey level
_RANGE_SLACK = 1.0  # values may leave the range by so many times its width


@IMPORTERS.register("onnx")
def import_onnx(request: ImportRequest) -> ImportedTeacher:
    """An ONNX generator; UserError for a file that is damaged or refused, or lists what it does not tell."""
    program = OnnxProgram(request.file, torch.device("cpu"))
    return _imported("onnx", request, program, partial(_copy, request.path, MODEL_FILE, program.sha256))


@IMPORTERS.register("torch-export")
def import_exported(request: ImportRequest) -> ImportedTeacher:
    """A generator saved by torch.export; UserError for a file that is damaged or refused, or lists what is open."""
    sha256 = file_sha256(request.file)
    program = ExportedProgram(request.path, torch.device("cpu"))
    return _imported("torch-export", request, program, partial(_copy, request.path, PROGRAM_FILE, sha256))


def _imported(arch: str, request: ImportRequest, program: Program, write: Callable[[Path], str]) -> ImportedTeacher:
    latents, labels = tell_apart(request, program)
    if latents is None:
        no_truncation(arch, request)
    form: LabelForm
    space: ClassLabels | ContinuousLabels
    if labels is None:
        form, space = "index", _one_class(request)
    else:
        form, space = label_space(arch, request, program, labels)
    convention = CallConvention(
        None if latents is None else latents.name, None if labels is None else labels.name, form
    )
    dimension = None if latents is None else latents.width
    images = _first_images(request, program, convention, space, dimension)
    black, white = _output_range(request, images)
    return ImportedTeacher(
        architecture=arch,
        arguments=replace(convention, black=black, white=white).to_json(),
        resolution_px=images.shape[2],
        channels=images.shape[1],
        label_space=space,
        latent={} if dimension is None else {"distribution": "normal", "dimension": dimension},
        truncation=std_truncation(request),
        write=write,
    )


def tell_apart(request: ImportRequest, program: Program) -> tuple[ProgramInput | None, ProgramInput | None]:
    """(the latents' input or None, the label's input or None); UserError where that is ambiguous."""
    path, slots = request.path, program.inputs
    _check_inputs(path, slots)
    if len(slots) == 1:
        return (None, slots[0]) if _only_label(request, slots[0]) else (_latents(path, slots[0]), None)
    listed = ", ".join(map(str, slots))
    labels = [slot for slot in slots if not slot.dtype.is_floating_point]
    if not labels:
        labels = _label_of_two_floats(request, slots)
    if len(labels) != 1:
        raise UserError(
            f"{path}: which of its inputs is the label cannot be told from {listed}; name its inputs z and y."
        )
    latents = next(slot for slot in slots if slot is not labels[0])
    return _latents(path, latents), labels[0]


def _check_inputs(path: Path, slots: tuple[ProgramInput, ...]) -> None:
    """UserError naming what is neither latents nor a label."""
    if not slots:
        raise UserError(f"{path} has no inputs, so all its images would be one; export it with its latents.")
    images = [slot for slot in slots if len(slot.sizes) == 4 and slot.width is None]
    if images:
        raise UserError(f"{path} takes images ({images[0]}), so it is no generator; give one of latents and labels.")
    static = [slot for slot in slots if slot.name.lower() in _STATIC_NAMES]
    if not static and len(slots) > 2:
        known = _LATENT_NAMES | _LABEL_NAMES
        static = [slot for slot in slots if slot.name.lower() not in known]
    if static and len(slots) > 1:
        raise UserError(
            f"{path} also takes {', '.join(map(str, static))}; fix such values before the export, so that the inputs "
            f"left are latents and at most one label."
        )
    if len(slots) > 2:
        listed = ", ".join(map(str, slots))
        raise UserError(f"{path} has the inputs {listed}; export a generator of latents and at most one label input.")


def _only_label(request: ImportRequest, slot: ProgramInput) -> bool:
    """Whether a program's only input is its label; UserError where that is ambiguous."""
    if not slot.dtype.is_floating_point:
        return True
    name, classes = slot.name.lower(), len(request.class_names or ())
    if request.label_input or request.label_range or name in _LABEL_NAMES:
        return True
    if name not in _LATENT_NAMES and slot.width in (1, classes):
        raise UserError(
            f"{request.path}: whether its only input {slot} is latents or the label cannot be told; name it z, or give "
            f"--label-input."
        )
    return False


def _latents(path: Path, slot: ProgramInput) -> ProgramInput:
    if slot.width is None or not slot.dtype.is_floating_point:
        raise UserError(f"{path}: its latents {slot} have no fixed width; export it with N x z latents.")
    return slot


def _one_class(request: ImportRequest) -> ClassLabels:
    """The labels of a program without a label."""
    return ClassLabels(("all",) if request.class_names is None else class_label_names(request, 1))


def _label_of_two_floats(request: ImportRequest, slots: tuple[ProgramInput, ...]) -> list[ProgramInput]:
    """By name, else by width."""
    names = [slot.name.lower() for slot in slots]
    rules: list[Callable[[int], bool]] = [
        lambda place: names[place] in _LABEL_NAMES,
        lambda place: names[1 - place] in _LATENT_NAMES,
        lambda place: slots[place].width == 1,
        lambda place: slots[place].width == len(request.class_names or ()),
    ]
    for rule in rules:
        matching = [slot for place, slot in enumerate(slots) if rule(place)]
        if len(matching) == 1:
            return matching
    return []


def label_space(
    arch: str, request: ImportRequest, program: Program, slot: ProgramInput
) -> tuple[LabelForm, ClassLabels | ContinuousLabels]:
    """How the label is fed and what labels there are; UserError that asks for all that is missing at once."""
    missing: dict[str, str] = {}
    form = request.label_input or _form(request, slot)
    if form is None:
        missing["--label-input"] = f"index, one-hot or value, for the input {slot}"
        if request.class_names is None and request.label_range is None:
            missing["--class-names"] = "the names of its classes in order, or --label-range for values"
    elif form not in _possible(slot):
        raise UserError(f"--label-input {form}: the program's label input is {slot}; give {_possible(slot)[0]}.")
    count = len(request.class_names or ()) or (program.classes(slot.name) if form == "index" else slot.width)
    if form in ("index", "one-hot") and not count:
        missing["--class-names"] = "the names of its classes in order"
    if form == "value" and request.label_range is None:
        missing["--label-range"] = "LOW:HIGH, the labels that stand for 0 and 1"
    require(arch, missing)
    if form == "value" and request.label_range is not None:
        if request.class_names is not None:
            raise UserError("--class-names: the program's labels are values; give --label-range instead.")
        low, high = request.label_range
        return "value", ContinuousLabels(low, high, request.label_unit, slot.width or 1)
    if request.label_range is not None:
        raise UserError("--label-range: the program's labels are classes; give --class-names instead.")
    width = slot.width if form == "one-hot" else program.classes(slot.name)
    names = class_label_names(request, int(width or count or 0))
    return ("one-hot" if form == "one-hot" else "index"), ClassLabels(names)


def _form(request: ImportRequest, slot: ProgramInput) -> LabelForm | None:
    if slot.width is None:
        return None
    if slot.width > 1:
        return "one-hot"
    if not slot.dtype.is_floating_point:
        return "index"
    return None if request.class_names is not None else "value"


def _possible(slot: ProgramInput) -> list[LabelForm]:
    """The forms that fit an input, the likeliest first."""
    values: list[LabelForm] = ["value"] if slot.dtype.is_floating_point else []
    if slot.width is None:
        return ["one-hot", *values]
    return ["one-hot", *values] if slot.width > 1 else [*values, "index"]


def _first_images(
    request: ImportRequest,
    program: Program,
    convention: CallConvention,
    space: ClassLabels | ContinuousLabels,
    dimension: int | None,
) -> torch.Tensor:
    """Images of a first run, N x C x H x W as the program gives them; UserError where they are not of the right kind.

    Run again they must be the same, and in other company the first must be the same too.
    """
    smallest, largest = program.batch
    count = max(2, smallest) if largest is None else min(max(2, smallest), largest)

    def run(others: int) -> torch.Tensor:
        labels = np.arange(count) * others % (space.width if isinstance(space, ClassLabels) else 1)
        if isinstance(space, ContinuousLabels):
            labels = space.decode(torch.linspace(0.0, 1.0, count)[:, None].expand(count, space.width))
            labels = np.concatenate([labels[:1], np.roll(labels[1:], others, axis=0)])
        latents = None
        if dimension is not None:
            first = torch.randn(count, dimension, generator=torch_generator(0, "first images"))
            second = torch.randn(count, dimension, generator=torch_generator(0, "first images", others))
            latents = torch.cat([first[:1], second[1:]])
        with torch.inference_mode():
            return program(program_values(program, convention, space, latents, labels))

    path = request.path
    images, again, others = run_limited(lambda: (run(1), run(1), run(2)), str(path))
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[0] != count or shape[1] not in (1, 3) or shape[2] != shape[3]:
        hint = "; transpose them to N x C x H x W" if len(shape) == 4 and shape[3] in (1, 3) else ""
        raise UserError(
            f"{path} gives {' x '.join(map(str, shape))} for {count} labels, and square images N x C x H x W with 1 or "
            f"3 channels are needed{hint}."
        )
    if shape[2] > _LARGEST_PX:
        raise UserError(f"{path} gives images of {shape[2]} pixels, and at most {_LARGEST_PX} are taken; resize them.")
    wanted = (request.channels or shape[1], request.resolution_px or shape[2])
    if wanted != shape[1:3]:
        raise UserError(f"{path} gives {shape[1]} x {shape[2]} x {shape[3]}; leave --resolution and --channels out.")
    if not bool(torch.isfinite(images.float()).all()):
        raise UserError(f"{path} gives pixels that are not numbers; export it again.")
    scale = max(float(images.float().abs().max()), 1e-6)
    if float((again.float() - images.float()).abs().max()) > _TOLERANCE * scale:
        raise UserError(f"{path} gives another image each time; export it without random noise inside.")
    if float((others[0].float() - images[0].float()).abs().max()) > _TOLERANCE * scale:
        raise UserError(f"{path} gives images that depend on which others are asked for; export it in eval mode.")
    return images


def _output_range(request: ImportRequest, images: torch.Tensor) -> tuple[float, float]:
    default = (-1.0, 1.0) if images.dtype.is_floating_point else (0.0, 255.0)
    black, white = request.output_range or default
    low, high = float(images.min()), float(images.max())
    slack = _RANGE_SLACK * (white - black)
    if low < black - slack or high > white + slack:
        raise UserError(
            f"--output-range: the first images run from {low:.3g} to {high:.3g}, far outside {black:g} to {white:g}; "
            f"give the values of black and white, e.g. 0:1 or 0:255."
        )
    return black, white


def _copy(source: Path, name: str, sha256: str, folder: Path) -> str:
    """Copy the file that was looked at into the teacher's folder."""
    commit_copy(source, folder / name, sha256)
    return sha256

"""From a foreign classifier's file to a predictor's folder.  Nothing in the file is executed.

A first run on random images shows how many outputs there are, and that an image's outputs follow from itself alone.
What cannot be told (the normalisation above all) is asked for; nothing is written before all of it is clear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifiers.foreign.known_networks import KnownNetwork, is_classifier, known_names, known_network
from classifiers.foreign.networks import Convention, ForeignNetwork, OutputForm, ProgramCore
from classifiers.foreign.normalisation import CHOICES, Normalisation, normalisation_of
from classifiers.foreign.wording import of_a_classifier
from classifiers.networks import STUDENTS
from classifiers.predictor import FOLDER, ClassifierPredictor, load_classifier
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.seen import Seen, write_seen
from image_data.seen_names import CLASSIFIER
from interfaces import LabelSpace
from layers.trunks import TIMM_PREFIX
from runtime.atomic import commit_copy
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files.entries import ENTRY_NOTES, read_network
from runtime.safe_files.exported_program import PROGRAM_FILE, ExportedProgram
from runtime.safe_files.onnx_file import MODEL_FILE, OnnxProgram
from runtime.safe_files.program import Program, ProgramInput
from runtime.seeds import torch_generator
from runtime.trial import run_limited

PROGRAMS = ("onnx", "torch-export")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_SIDES = (8, 1024)
_TOLERANCE = 1e-3  # of the largest output
_SUM_TOLERANCE = 1e-3
Groups = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class PredictorRequest:
    """What the user says of a foreign classifier.  None: told by the file, or asked for where it is not.

    `image_size`, `image_channels`: of the images that it will be shown, where they differ from those that it takes.
    `label_map(its classes) -> (the user's names, the classes merged into each)`.
    """

    arch: str
    checkpoint: Path
    normalise: str
    output: OutputForm | None = None
    class_names: tuple[str, ...] | None = None
    label_map: Callable[[ClassLabels], Groups] | None = None
    label_range: tuple[float, float] | None = None
    label_unit: str = ""
    resolution_px: int | None = None
    channels: int | None = None
    image_size: int | None = None
    image_channels: int | None = None
    network_width: float | None = None
    licence: str = "unknown"
    entry: str | None = None  # of a state dict's file


@dataclass(frozen=True)
class ImportedPredictor:
    """A foreign classifier that is ready to be written: the network at work, its card, and what writes the folder."""

    network: ForeignNetwork
    label_space: LabelSpace
    card: Mapping[str, Any]
    notes: tuple[str, ...] = ()  # what was taken without being asked for

    def write(self, folder: Path, result: Mapping[str, Any], seen: Mapping[str, Any], source: Path) -> None:
        """Write the files, then the card, which stays only where the folder loads and answers the same.

        `result`: its measured quality, {} where that is unknown.  `seen`: what is known of its training.
        """
        folder.mkdir(parents=True, exist_ok=True)
        record = write_seen(folder, Seen.nothing_known(CLASSIFIER, f"imported from {source.name}"))
        card = {**self.card, "result": dict(result), "trained_on": {**seen, "seen": record}}
        core = self.network.core
        if isinstance(core, ProgramCore):
            name = MODEL_FILE if card["architecture"] == "onnx" else PROGRAM_FILE
            commit_copy(source, folder / name, str(card.pop("sha256")))
            FOLDER.write_card(folder, card, file=name)
        else:
            FOLDER.write(folder, card, core.state_dict())
        try:
            _check_the_same(self.network, load_classifier(folder, torch.device("cpu")), folder)
        except BaseException:
            (folder / "card.json").unlink(missing_ok=True)
            raise


def import_classifier(request: PredictorRequest) -> ImportedPredictor:
    """Read and check everything; UserError in one sentence for a file or a statement that does not fit."""
    if request.arch not in PROGRAMS and request.arch not in STUDENTS and not request.arch.startswith(TIMM_PREFIX):
        raise UserError(f"--arch {request.arch[:80]} is unknown; known are {known_names()}.")
    if not request.normalise:
        raise UserError(
            f"give --normalise, what its pixels went through before it saw them, which no file tells: {CHOICES}."
        )
    if not request.checkpoint.is_file():
        found = "is a folder" if request.checkpoint.is_dir() else "does not exist"
        raise UserError(f"--checkpoint {request.checkpoint} {found}; give the path of the classifier's file.")
    with of_a_classifier(request.checkpoint):
        core, convention, extra = _program(request) if request.arch in PROGRAMS else _network(request)
    space, convention = _labels(request, convention)
    network = ForeignNetwork(core, convention, space).eval()
    _check_outputs(request, network)
    card = {
        "kind": "classifier",
        "architecture": request.arch,
        "width": extra.get("network", {}).get("width", 1.0),
        "channels": request.image_channels or convention.channels,
        "resolution_px": request.image_size or convention.resolution_px,
        "label_space": space.to_json(),
        "licence": request.licence,
        "foreign": True,
        **extra,
    }
    card["arguments"] = {  # all that decides the outputs beside the weights: it is in the predictor's digest
        **convention.to_json(),
        **card.pop("network", {}),
        "shape": [card["channels"], card["resolution_px"]],
        "labels": space.to_json(),
    }
    notes = _notes(request, convention, space, {name: card[name] for name in ENTRY_NOTES if name in card})
    return ImportedPredictor(network, space, card, notes)


def _program(request: PredictorRequest) -> tuple[nn.Module, Convention, dict[str, Any]]:
    path = request.checkpoint
    program: Program
    if request.network_width is not None:
        raise UserError(f"--network-width: --arch {request.arch} has no use for it; leave it out.")
    if request.entry is not None:
        raise UserError(f"--entry: --arch {request.arch} has no entries; leave it out.")
    if request.arch == "onnx":
        program = onnx = OnnxProgram(path, torch.device("cpu"), output_dims=2)
        sha256 = onnx.sha256
    else:
        sha256 = file_sha256(path)
        program = ExportedProgram(path, torch.device("cpu"))
    slot = _image_input(path, program)
    channels, resolution_px, last = _image_shape(request, slot)
    normalisation = normalisation_of(request.normalise, channels)
    if not slot.dtype.is_floating_point and normalisation.name != "raw":
        raise UserError(f"{path} takes whole pixels ({slot}); give --normalise raw.")
    core = ProgramCore(program, last)
    blank = Convention(normalisation, channels, resolution_px, request.output or "logits", 0, last)
    count = max(1, program.batch[0])
    outputs = _outputs_of(_first_outputs(core, normalisation, (count, channels, resolution_px), path), count, path)
    return core, replace(blank, outputs=outputs), {"sha256": sha256}


def _first_outputs(
    core: ProgramCore, normalisation: Normalisation, shape: tuple[int, int, int], path: Path
) -> torch.Tensor:
    """What a program gives for its first images, count x channels x px; UserError where it takes too long or fails."""

    def run() -> tuple[torch.Tensor]:
        with torch.inference_mode():
            return (core(normalisation(_random_images(*shape, 0))),)

    return run_limited(run, str(path))[0]


def _image_input(path: Path, program: Program) -> ProgramInput:
    listed = ", ".join(map(str, program.inputs)) or "none"
    if len(program.inputs) != 1 or len(program.inputs[0].sizes) != 4:
        raise UserError(f"{path} has the inputs {listed}; export a classifier of one input, images N x C x H x W.")
    return program.inputs[0]


def _image_shape(request: PredictorRequest, slot: ProgramInput) -> tuple[int, int, bool]:
    """(channels, side in px, whether channels come last) from the program and the flags."""
    path, sizes = request.checkpoint, slot.sizes
    last = sizes[1] not in (1, 3, None) and sizes[3] in (1, 3)
    channels, height, width = (sizes[3], sizes[1], sizes[2]) if last else sizes[1:]
    missing = {}
    if channels is None and request.channels is None:
        missing["--channels"] = "1 or 3"
    if height is None and width is None and request.resolution_px is None:
        missing["--resolution"] = "the side of its images in pixels"
    if missing:
        listed = "; ".join(f"{flag} ({why})" for flag, why in missing.items())
        raise UserError(f"{path} takes images of any size, {slot}; give {listed}.")
    given = ((request.channels, channels), (request.resolution_px, height), (request.resolution_px, width))
    if any(None not in pair and pair[0] != pair[1] for pair in given):
        raise UserError(
            f"{path} takes {slot}; leave --resolution and --channels out (--image-size and --image-channels are for "
            f"images of another size)."
        )
    channels, side = channels or request.channels, height or width or request.resolution_px
    if channels not in (1, 3) or (height or side) != (width or side) or not _SIDES[0] <= int(side or 0) <= _SIDES[1]:
        raise UserError(f"{path} takes {slot}, and square images of 1 or 3 channels, 8 to 1024 px, are needed.")
    return int(channels or 0), int(side or 0), last


def _network(request: PredictorRequest) -> tuple[nn.Module, Convention, dict[str, Any]]:
    if request.resolution_px is None or request.channels is None:
        raise UserError(
            f"--arch {request.arch}: a state dict does not tell the size of its images; give --resolution and "
            f"--channels."
        )
    normalisation = normalisation_of(request.normalise, request.channels)
    taken = read_network(request.checkpoint, is_classifier(request.arch), request.entry)
    network: KnownNetwork
    network, core = known_network(
        request.arch,
        without_prefixes(taken.tensors),
        request.checkpoint,
        width=request.network_width,
        channels=request.channels,
        resolution_px=request.resolution_px,
        continuous=request.label_range is not None,
    )
    core.requires_grad_(False)
    form = request.output or ("unit" if network.continuous and network.form == "own" else "logits")
    found = Convention(normalisation, request.channels, request.resolution_px, form, network.outputs)
    return core, found, {"network": network.to_json(), **taken.notes()}


def without_prefixes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without what wrappers put before every name, in any order and number."""
    found = {name: value for name, value in tensors.items() if name.split(".")[-1] != "n_averaged"}
    while prefix := next((word for word in _WRAPPERS if found and all(name.startswith(word) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _outputs_of(found: torch.Tensor, count: int, path: Path) -> int:
    """How many numbers there are for each image."""
    shape = tuple(found.shape)
    if len(shape) > 2 and any(size != 1 for size in shape[2:]):
        raise UserError(
            f"{path} gives {' x '.join(map(str, shape))} for {count} images; N x classes, or N values are needed."
        )
    return 1 if len(shape) == 1 else shape[1]


def _labels(request: PredictorRequest, convention: Convention) -> tuple[LabelSpace, Convention]:
    """The user's labels; UserError where names, range and outputs contradict each other or are missing."""
    path, outputs = request.checkpoint, convention.outputs
    if request.label_range is not None:
        if request.class_names is not None or request.label_map is not None:
            raise UserError(
                "--label-range is for values, --class-names and --label-map are for classes; give one kind."
            )
        form = request.output or (convention.output if convention.output == "unit" else None)
        if form not in ("values", "unit"):
            raise UserError(
                f"--label-range: say what {path} gives, --output values (in your units) or unit (0 to 1 for the ends "
                f"of the range)."
            )
        low, high = request.label_range
        return ContinuousLabels(low, high, request.label_unit, outputs), replace(convention, output=form)
    if request.label_unit:
        raise UserError("--label-unit is for values; give --label-range too, or leave it out.")
    if request.output in ("values", "unit"):
        raise UserError(
            f"--output {request.output} is for values; give --label-range LOW:HIGH, their range in your units."
        )
    if outputs == 1:
        raise UserError(
            f"{path} gives one number an image, so that it is no classifier of two or more classes; give --label-range "
            f"LOW:HIGH where it predicts a value, or export one output for each class."
        )
    names = request.class_names or tuple(str(index) for index in range(outputs))
    if len(names) != outputs:
        raise UserError(
            f"--class-names gives {len(names)} names and {path} has {outputs} outputs; name each once, in its order."
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--class-names: {twice[:60]!r} is named twice; give each class a name of its own.")
    if request.label_map is None:
        return ClassLabels(names), convention
    mine, groups = request.label_map(ClassLabels(names))
    return ClassLabels(mine), replace(convention, sources=groups)


def _check_outputs(request: PredictorRequest, network: ForeignNetwork) -> None:
    """UserError where the outputs are not finite, differ from run to run, or depend on the other images."""
    path, taken = request.checkpoint, network.convention
    first, second = (_random_images(3, taken.channels, taken.resolution_px, number) for number in (1, 2))
    second[0] = first[0]
    try:
        with torch.inference_mode():
            found, again, other = network.raw(first), network.raw(first), network.raw(second)
            encoded = network.read(found)
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"{path} cannot take images of {taken.channels} x {taken.resolution_px} x {taken.resolution_px} "
            f"({reason}); check --resolution."
        ) from error
    if not bool(torch.isfinite(found).all()):
        raise UserError(f"{path} gives outputs that are not finite numbers; export or save it again.")
    scale = max(float(found.abs().max()), 1e-6)
    if float((again - found).abs().max()) > _TOLERANCE * scale:
        raise UserError(f"{path} gives other outputs each time; export it in eval mode, without random noise inside.")
    if float((other[0] - found[0]).abs().max()) > _TOLERANCE * scale:
        raise UserError(f"{path} gives outputs that depend on which other images there are; export it in eval mode.")
    _check_form(request, taken, found)
    if not bool(torch.isfinite(encoded).all()):
        raise UserError(f"{path}: its outputs cannot be read as {taken.output}; check --output.")


def _check_form(request: PredictorRequest, taken: Convention, found: torch.Tensor) -> None:
    """Rows that sum to 1 are probabilities, whatever they are called."""
    if request.label_range is not None:
        return
    sums = float((found.sum(dim=1) - 1.0).abs().max())
    like = sums < _SUM_TOLERANCE and float(found.min()) >= 0.0
    if taken.output == "probabilities" and not like:
        raise UserError(
            f"--output probabilities: the outputs of {request.checkpoint} run from {float(found.min()):.3g} to "
            f"{float(found.max()):.3g} and do not sum to 1; give --output logits."
        )
    if request.output is None and like:
        raise UserError(
            f"{request.checkpoint} gives rows that sum to 1, as probabilities do; give --output probabilities (or "
            f"--output logits if they are that)."
        )
    if request.output is None and float(found.min()) >= 0.0 and float(found.max()) <= 1.0:
        raise UserError(
            f"{request.checkpoint} gives numbers between 0 and 1 only ({float(found.min()):.3g} to "
            f"{float(found.max()):.3g}) that are no probabilities; export the values before its last sigmoid, or give "
            f"--output logits if they are that."
        )


def _notes(
    request: PredictorRequest, taken: Convention, space: LabelSpace, choice: Mapping[str, Any]
) -> tuple[str, ...]:
    found = [f"pixels are normalised as {taken.normalisation}"]
    if "other_entries" in choice:
        others = ", ".join(choice["other_entries"])
        found.append(f"of the entries in {request.checkpoint}, {choice['entry']} is taken, not {others} (--entry)")
    if taken.channels_last:
        found.append("its images are N x H x W x C (channels last)")
    if space.kind == "classes" and request.class_names is None and request.label_map is None:
        found.append(f"its classes are called 0 to {space.width - 1}; --class-names names them, in its order")
    if request.output is None:
        found.append(f"its outputs are taken as {taken.output}")
    return tuple(found)


def _random_images(count: int, channels: int, resolution_px: int, number: int) -> torch.Tensor:
    """uint8 N x C x H x W."""
    generator = torch_generator(0, "first images of a predictor", number)
    return torch.randint(
        0, 256, (count, channels, resolution_px, resolution_px), generator=generator, dtype=torch.uint8
    )


def _check_the_same(network: ForeignNetwork, loaded: ClassifierPredictor, folder: Path) -> None:
    """UserError where the written folder answers otherwise than the file that was read."""
    card = loaded.card
    images = _random_images(2, int(card["channels"]), int(card["resolution_px"]), 3)
    with torch.inference_mode():
        original, written = network(images), loaded.network(images)
    scale = max(float(original.abs().max()), 1e-6)
    if float((original - written).abs().max()) > _TOLERANCE * scale:
        raise UserError(f"{folder} does not answer as the file that was imported; import it again.")

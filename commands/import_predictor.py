"""Make a predictor from a classifier of another program: an ONNX file, a torch.export program, or weights by name.

Nothing in the file is executed.  The normalisation of its pixels is in no file, so that `--normalise` states it.  With
`--data` its error on the validation images is measured and kept in its card; what it was trained on stays unknown.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from commands.support.builders import load_data
from commands.support.options import Channels, DataOptions, ListedNames, SharedOptions
from commands.support.workspace import artefact
from runtime.errors import UserError

if TYPE_CHECKING:
    from classifiers.foreign.importing import ImportedPredictor, PredictorRequest
    from image_data.real import RealData


class Options(SharedOptions):
    """Flags of import-predictor."""

    arch: str | None = Field(None, description="onnx, torch-export, or the network of its state dict.")
    checkpoint: Path | None = Field(None, description="Its file.")
    normalise: str | None = Field(
        None, description="cifar10, imagenet, half, none (x/255), raw (0 to 255), ..., or 'MEAN;STD' of x/255."
    )
    entry: str | None = Field(None, description="Which network of the file, where it holds several.")
    output: Literal["logits", "probabilities", "values", "unit"] | None = Field(
        None, description="What it gives: of classes, or values in your units, or 0 to 1 for the ends of the range."
    )
    class_names: ListedNames | None = Field(None, description="Names of the classes, in its order; or a file.")
    label_map: Path | None = Field(None, description="YAML: which of its classes are which of yours.")
    label_range: str | None = Field(None, description="LOW:HIGH, the range of its values in your units.")
    label_unit: str = Field("", description="Unit of its values, e.g. degrees.")
    resolution: int | None = Field(None, ge=8, le=1024, description="Side of its images, where the file does not tell.")
    channels: Channels | None = Field(None, description="Its images are grey (1) or colour (3).")
    image_size: int | None = Field(None, ge=8, le=1024, description="Side of your images, resized to what it takes.")
    image_channels: Channels | None = Field(None, description="Your images are grey or colour, and it takes the other.")
    network_width: float | None = Field(None, gt=0, le=64, description="Factor on its channels; open: its file tells.")
    licence: str = Field("unknown", description="Licence of the classifier, for its card.")
    data: str | None = Field(None, description="Real images to measure its error on (validation images).")
    fold: int = Field(0, ge=0, description="Cross-fitting fold of the embedded digits (0, 1 or 2).")
    data_seed: int = Field(0, ge=0, description="Which images --data sets aside.")
    download: bool = Field(False, description="Allow the dataset to be downloaded.")


def run(options: Options) -> dict[str, Any]:
    """Read and check the file, measure, then write the folder, or find it done."""
    import torch

    from classifiers.foreign.importing import import_classifier
    from runtime.devices import set_threads
    from runtime.digests import file_sha256
    from runtime.progress import note

    set_threads(1)
    imported = import_classifier(_request(options))
    for taken in imported.notes:
        note(taken)
    checkpoint = Path(str(options.checkpoint))
    parents = {"checkpoint": file_sha256(checkpoint)}
    if options.label_map is not None:
        parents["label_map"] = file_sha256(options.label_map)
    data = _real_images(options, imported)
    if data is not None:
        parents["data"] = data.digest
    with artefact("import-predictor", "predictor", options, parents) as output:
        if not output.finished:
            result = {} if data is None else _measured(options, imported, data, torch.device("cpu"))
            seen = {"imported": {"checkpoint": checkpoint.name}}
            imported.write(output.folder, result, seen, checkpoint)
    return {"predictor": str(output.folder), **summary(output.folder)}


def _request(options: Options) -> PredictorRequest:
    from classifiers.foreign.importing import PredictorRequest
    from classifiers.foreign.normalisation import CHOICES

    missing = {
        "--arch": "onnx, torch-export, or the network of a state dict, e.g. resnet20 or timm:resnet18",
        "--checkpoint": "its file",
        "--normalise": f"what its pixels went through, which no file tells: {CHOICES}",
    }
    given = {"--arch": options.arch, "--checkpoint": options.checkpoint, "--normalise": options.normalise}
    listed = "; ".join(f"{flag} ({why})" for flag, why in missing.items() if not given[flag])
    if listed:
        raise UserError(f"give {listed}.")
    return PredictorRequest(
        arch=str(options.arch),
        checkpoint=Path(str(options.checkpoint)),
        normalise=str(options.normalise),
        output=options.output,
        class_names=options.class_names,
        label_map=None if options.label_map is None else partial(_groups, options.label_map),
        label_range=_range(options.label_range),
        label_unit=options.label_unit,
        resolution_px=options.resolution,
        channels=options.channels,
        image_size=options.image_size,
        image_channels=options.image_channels,
        network_width=options.network_width,
        licence=options.licence,
        entry=options.entry,
    )


def _groups(path: Path, space: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    from teacher_sampler.adapted import read_label_map

    label_map = read_label_map(path, space)
    return label_map.names, label_map.sources


def _range(text: str | None) -> tuple[float, float] | None:
    """LOW:HIGH as two finite numbers, the first below the second."""
    import math

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(f"--label-range {text} is not LOW:HIGH; give two numbers, e.g. 0:90.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--label-range {text}: LOW must be below HIGH, and both finite.")
    return low, high


def _real_images(options: Options, imported: ImportedPredictor) -> RealData | None:
    """The images to measure on, in the predictor's size; UserError where their labels or channels are others."""
    if options.data is None:
        for name in ("fold", "data_seed", "download"):
            if name in options.model_fields_set:
                raise UserError(f"--{name.replace('_', '-')} is for --data; give both, or leave it out.")
        return None
    card = imported.card
    given: dict[str, Any] = {name: getattr(options, name) for name in ("data", "fold", "data_seed", "download")}
    data = load_data(DataOptions(**given, resolution=card["resolution_px"], workspace=options.workspace))
    _check_meets(options.checkpoint, options.data, imported, data)
    return data


def _check_meets(checkpoint: Path | None, named: str, imported: ImportedPredictor, data: RealData) -> None:
    """UserError where the classifier and the data have other labels or images."""
    from image_data.label_meeting import LabelHolder, meet

    if data.val is None or not len(data.val):
        raise UserError(f"--data {named} has no validation images; leave --data out.")
    meet(
        LabelHolder("imported", f"--checkpoint {checkpoint}", imported.label_space),
        LabelHolder("data", f"--data {named}", data.label_space),
        data.val.labels,
    )
    channels = data.train.pixels.shape[1]
    if channels != imported.card["channels"]:
        raise UserError(
            f"the classifier takes images of {imported.card['channels']} channels and --data {named} has {channels}; "
            f"give --image-channels {channels}."
        )


def _measured(options: Options, imported: ImportedPredictor, data: RealData, device: Any) -> dict[str, Any]:
    """The validation error, as train-classifier's cards have it."""
    from classifiers.scoring import outputs, score_outputs
    from runtime.progress import note

    score = score_outputs(outputs(imported.network, data.val, device), data.val.labels, imported.label_space)
    width = imported.label_space.width
    if score.metric == "error" and score.value > 0.9 * (1.0 - 1.0 / width):
        note(
            f"it errs on {100 * score.value:.1f} % of the validation images, little better than guessing "
            f"among {width} classes; check --normalise and the order of --class-names"
        )
    return {
        "val_metric": score.metric,
        "val_score": score.value,
        "val_cross_entropy": score.cross_entropy,
        "val_images": len(data.val),
        "data": f"{options.data}, fold {options.fold}" if options.data == "digits" else str(options.data),
        "data_digest": data.digest,
    }


def summary(folder: Path) -> dict[str, Any]:
    """What a user wants to know of an imported predictor."""
    from classifiers.foreign.networks import Convention
    from classifiers.predictor import read_classifier_card
    from image_data.labels import label_space_from_json

    card = read_classifier_card(folder)
    taken = Convention.from_json(card["arguments"])
    result = card["result"]
    size = f"{card['channels']} x {card['resolution_px']} x {card['resolution_px']}"
    if (taken.channels, taken.resolution_px) != (card["channels"], card["resolution_px"]):
        size += f", turned into {taken.channels} x {taken.resolution_px} x {taken.resolution_px}"
    return {
        "architecture": card["architecture"],
        "images": size,
        "labels": _labels_text(label_space_from_json(card["label_space"])),
        "output": taken.output,
        "normalisation": str(taken.normalisation),
        "validation": _quality_text(result) if result else "unknown; --data measures it",
        "seen": "unknown",
        "digest": card["source_digest"][:8],
    }


def _quality_text(result: dict[str, Any]) -> str:
    value = f"{100 * result['val_score']:.2f} %" if result["val_metric"] == "error" else f"{result['val_score']:.4g}"
    return f"{result['val_metric']} {value} on {result['val_images']} validation images of {result['data']}"


def _labels_text(space: Any) -> str:
    if space.kind == "classes":
        shown = ", ".join(space.names[:5]) + (", ..." if space.width > 5 else "")
        return f"{space.width} classes ({shown})"
    wide = f" ({space.width} values an image)" if space.width > 1 else ""
    return f"{space.low:g} to {space.high:g} {space.unit}".strip() + wide

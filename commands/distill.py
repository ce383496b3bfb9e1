"""Train a light classifier or regressor from real images, from real and fake ones (cGAN-KD), or from fakes alone.

`--method blkd` adds a teacher's soft labels.  Every setting trains for the same number of steps; selection sees
validation images only, and the test images are opened once, at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from classifiers.settings import ClassifierSettings
from commands.options import DataOptions, settings_from, settings_options
from commands.parts import load_data, load_predictor
from commands.workspace import artefact, artefact_digest, resolve_input
from runtime.errors import UserError

_Settings: Any = settings_options(ClassifierSettings, "StudentFlags", exclude={"seed", "distiller", "student"})


class Options(_Settings, DataOptions):
    """Flags of distill."""

    network: str = Field("resnet8", description="The student; `list` names the networks.")
    method: Literal["none", "blkd"] = Field("blkd", description="none: hard labels; blkd: a teacher's soft labels.")
    train_on: Literal["real", "mixed", "fakes"] = Field("mixed", description="mixed is cGAN-KD: real and fakes.")
    fakes: Path | None = Field(None, description="Folder of the fakes.")
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    nfake: int | None = Field(None, ge=1, description="Fakes in all, balanced over the classes.")
    relabel: bool = Field(False, description="Replace the asked label by the teacher's.")
    scope: Literal["class", "global"] | None = Field(None, description="Over what the rho-quantile is taken.")
    test: bool = Field(True, description="Open the test images once, at the end.")


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done; then the one look at the test images."""
    import json

    from classifiers import train_classifier
    from runtime.atomic import write_json
    from runtime.devices import pick_device, set_threads

    device = pick_device(options.device)
    set_threads(1)
    data = load_data(options)
    settings = settings_from(options, ClassifierSettings, student=options.network, distiller=options.method)
    parents = {"data": data.digest}
    fakes = predictor = None
    if options.train_on != "real":
        fakes = resolve_input("fakes", options.fakes, options)
        parents["fakes"] = artefact_digest("fakes", fakes)
    if options.method != "none":
        predictor = resolve_input("predictor", options.predictor, options)
        parents["predictor"] = artefact_digest("predictor", predictor)
    train = training_source(options, data, fakes)
    with artefact("distill", "classifier", options, parents) as made:
        result_file = made.folder / "result.json"
        if not made.finished:
            teacher = load_predictor(predictor, device) if predictor else None
            result = train_classifier(
                train, data.val, data.label_space, settings, made.folder, device, data.allowed_augmentations, teacher
            )
            result = {**result, "protocol": protocol(options, train), "test": _test(options, made.folder, data, device)}
            write_json(result_file, result)
    return {"classifier": str(made.folder), **json.loads(result_file.read_text())}


def training_source(options: Options, data: Any, fakes: Path | None) -> Any:
    """Real, real + selected fakes (concatenated, cGAN-KD's mixing rule), or selected fakes alone."""
    from filters import select
    from image_data.fake import open_fakes
    from image_data.sources import Concatenation

    if fakes is None:
        return data.train
    dataset = open_fakes(fakes)
    if dataset.label_space.to_json() != data.label_space.to_json():
        raise UserError(f"--fakes {fakes} has other labels than --data {options.data}; give fakes of the same labels.")
    if tuple(dataset.image_shape) != data.train.pixels.shape[1:]:
        shape = "x".join(str(side) for side in dataset.image_shape)
        raise UserError(f"--fakes {fakes} has images of {shape}, --data {options.data} has others; give --resolution.")
    chosen = select(
        dataset,
        rho=options.rho,
        nfake_per_label=options.nfake_per_class,
        nfake=options.nfake,
        relabel=options.relabel,
        scope=options.scope or ("class" if dataset.label_space.kind == "classes" else "global"),
        seed=options.seed,
    )
    view = dataset.view(chosen)
    return view if options.train_on == "fakes" else Concatenation([data.train, view])


def protocol(options: Options, train: Any) -> dict[str, Any]:
    """What stands beside the number."""
    return {
        "network": options.network,
        "method": options.method,
        "train_on": options.train_on,
        "rho": options.rho if options.train_on != "real" else None,
        "images": len(train),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "data": f"{options.data}, fold {options.fold}, {options.real_per_class or 'all'} a class",
    }


def _test(options: Options, folder: Path, data: Any, device: Any) -> dict[str, Any] | None:
    from evaluation.accuracy import score

    if not options.test:
        return None
    return score(load_predictor(folder, device), data.open_test(), data.label_space)

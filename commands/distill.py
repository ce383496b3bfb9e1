"""Train a light classifier or regressor from real images, from real and fake ones (cGAN-KD), or from fakes alone.

`--method blkd` adds a teacher's soft labels.  Every setting trains for the same number of steps; selection sees
validation images only, and the test images are opened once, at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from classifiers.settings import ClassifierSettings
from commands.classifier_flags import ClassifierFlags
from commands.options import settings_from
from commands.parts import load_data, load_predictor
from commands.selection import SelectionOptions, check_soft_labels, mixed_source, open_matching_fakes
from commands.workspace import artefact, artefact_digest, resolve_input


class Options(ClassifierFlags, SelectionOptions):
    """Flags of distill."""

    network: str = Field("resnet8", description="The student; `list` names the networks.")
    method: Literal["none", "blkd"] = Field("blkd", description="none: hard labels; blkd: a teacher's soft labels.")
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    test: bool = Field(True, description="Open the test images once, at the end.")


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done; then the one look at the test images."""
    import json

    from classifiers import train_classifier
    from runtime.atomic import write_json
    from runtime.ranks import join_ranks

    ranks, device = join_ranks(options.device, options.batch_size)
    data = load_data(options)
    settings = settings_from(options, ClassifierSettings, student=options.network, distiller=options.method)
    parents = {"data": data.digest}
    fakes = predictor = None
    if options.train_on != "real":
        fakes = resolve_input("fakes", options.fakes, options)
        parents["fakes"] = artefact_digest("fakes", fakes)
    if options.method != "none":
        predictor = resolve_input("predictor", options.predictor, options)
        check_soft_labels(predictor, options, data)
        parents["predictor"] = artefact_digest("predictor", predictor)
    dataset = open_matching_fakes(fakes, options, data) if fakes else None
    train = mixed_source(options, data, dataset, options.rho)
    with artefact("distill", "classifier", options, parents, ranks=ranks) as made:
        result_file = made.folder / "result.json"
        if not made.finished:
            teacher = load_predictor(predictor, device) if predictor else None
            result = train_classifier(
                train, data.val, data.label_space, settings, made.folder, device, data.allowed_augmentations, teacher,
                ranks=ranks,
            )  # fmt: skip
            if ranks.main:
                test = _test(options, made.folder, data, device)
                write_json(result_file, {**result, "protocol": protocol(options, train), "test": test})
    return {"classifier": str(made.folder), **json.loads(result_file.read_text())}


def protocol(options: Options, train: Any) -> dict[str, Any]:
    """What stands beside the number."""
    return {
        "network": options.network,
        "method": options.method,
        "train_on": options.train_on,
        "rho": options.rho if options.train_on != "real" else None,
        "keep": options.keep if options.train_on != "real" else None,
        "weights": options.weights if options.train_on != "real" else "none",
        "real_share": options.real_share if options.train_on == "mixed" else None,
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
    found = score(load_predictor(folder, device), data.open_test(), data.label_space)
    return {**found, "per_image": found["per_image"].tolist()}

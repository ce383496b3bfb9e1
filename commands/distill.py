"""Train a light classifier or regressor from real images, from real and fake ones (cGAN-KD), or from fakes alone.

`--train-on fakes --no-test` reads no real image at all: a share of the fakes is held out to judge on.
`--method blkd` adds a teacher's soft labels: of a running one (--predictor), or as `score --views` stored them
(--outputs; the teacher is then not loaded).  Every setting trains for the same number of steps, or with
--epochs for passes through its own images; selection sees validation images only, and the test images are opened once,
at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from classifiers.networks import STUDENTS
from commands.support.builders import load_data, load_predictor
from commands.support.classifier_flags import (
    ClassifierFlags,
    MethodOptions,
    classifier_settings,
    start_of,
    uploaded_bytes,
)
from commands.support.lineage import checked, parts_of_training, record_seen
from commands.support.options import Chosen, entry_option
from commands.support.selection import (
    SelectionOptions,
    TrainingImages,
    check_soft_labels,
    open_matching_fakes,
    training_images,
    without_real_images,
)
from commands.support.stored import stored_teacher
from commands.support.workspace import artefact, artefact_digest, resolve_input
from image_data.seen_names import CLASSIFIER
from runtime.safe_files import read_json_object
from training.methods import METHODS

if TYPE_CHECKING:
    from image_data.fake import FakeDataset
    from image_data.real import RealData

_REMEDY = "restore it, or remove it and run the same command again"


class Options(MethodOptions, ClassifierFlags, SelectionOptions):
    """Flags of distill."""

    aliases = {"width": "network.width"}

    network: Chosen = entry_option(STUDENTS, "resnet8", "The student's network.")
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    outputs: Path | None = Field(None, description="Folder of score --views, in place of the running teacher.")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    test: bool = Field(True, description="Open the test images once, at the end.")


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done; then the one look at the test images."""
    from classifiers import check_training, train_classifier
    from classifiers.leak_guard import seen_line
    from classifiers.methods import needs_teacher
    from classifiers.needs import classifier_needs
    from runtime.progress import say
    from runtime.ranks import join_ranks
    from runtime.safe_files import read_sealed_json, write_sealed_json

    ranks, device = join_ranks(options.device, options.batch_size)
    options = settled(options)
    settings = classifier_settings(options, options.network, options.method)
    data = None if options.data == "none" else load_data(options)
    parents = start_of(options) | ({} if data is None else {"data": data.digest})
    fakes, dataset = _fakes(options, data)
    if fakes is not None:
        parents["fakes"] = artefact_digest("fakes", fakes)
    if data is None and dataset is not None and "rho" not in options.model_fields_set and not dataset.score_sets():
        say("all fakes are used (--rho 1): no predictor has scored them")
        options = options.model_copy(update={"rho": 1.0})
    images = training_images(options, data, dataset, options.rho)
    predictor = None
    stored = None if options.outputs is None else stored_teacher(options, images)
    if stored is not None:
        parents["outputs"] = stored.stored.digest
    elif needs_teacher(options):
        predictor = resolve_input("predictor", options.predictor, options)
        check_soft_labels(predictor, images.holder, images.train.labels, images.image_shape)
        parents["predictor"] = artefact_digest("predictor", predictor)
    others = parts_of_training(options, fakes, predictor, options.outputs)
    if data is not None:
        checked(options, data, others, test=options.test)
    teacher = load_predictor(predictor, device) if predictor else stored
    check_training(images.train, images.val, images.holder.space, settings, images.augmentations, teacher, device)
    digest = data.test_digest if data is not None and options.test else None
    tested, opened = partial(_tested, digest=digest), {"test": digest} if digest else {}
    held = (0 if data is None else data.train.pixels.nbytes) + uploaded_bytes(options, images.train)
    needs = partial(classifier_needs, settings, images.image_shape, images.holder.space, held, device)
    with artefact(
        "distill", "classifier", options, parents, complete=tested, ranks=ranks, opened=opened, needs=needs
    ) as output:
        result_file = output.folder / "result.json"
        if not output.finished:
            seen = _record(output.folder, others, data, options.train_on) if ranks.main else {}
            if result_file.is_file():
                say("the test images are not those of the result; the trained weights stay and are tested again")
            result = train_classifier(
                images.train, images.val, images.holder.space, settings, output.folder, device, images.augmentations,
                teacher, trained_on=seen, ranks=ranks,
            )  # fmt: skip
            if ranks.main:
                result = validated(result, images)
                test = None if data is None or not options.test else _test(output.folder, data, device)
                line = seen_line(data, others, "test" if digest else "val")
                how = protocol(options, images.train, result, parents)
                how |= {} if stored is None else {"stored_views": stored.stored.views}
                content = {**result, "protocol": how, "seen": line, "test": test}
                write_sealed_json(result_file, content)
    return {"classifier": str(output.folder), **read_sealed_json(result_file, _REMEDY)}


def _fakes(options: Options, data: RealData | None) -> tuple[Path | None, FakeDataset | None]:
    """Folder and dataset, made first where the embedded default lacks them; nothing for real images alone."""
    if options.train_on == "real":
        return None, None
    folder: Path = resolve_input("fakes", options.fakes, options)
    return folder, open_matching_fakes(folder, options, data)


def _record(folder: Path, others: Any, data: RealData | None, train_on: str) -> dict[str, str]:
    """What the student and all behind it have seen; a trained student's record stays."""
    if (folder / "card.json").is_file():
        return {}
    from image_data.seen import Seen

    own = Seen.of(CLASSIFIER) if data is None else data.seen_by(CLASSIFIER, train=train_on != "fakes")
    return record_seen(folder, others, own)


def _tested(folder: Path, digest: str | None) -> bool:
    """Whether the result is that of these test images (None: of none)."""
    test = read_json_object(folder / "result.json").get("test")
    return digest is None or (isinstance(test, dict) and test.get("digest") == digest)


def settled(options: Options) -> Options:
    """The options with what follows from there being no real image: data none, no test, hard labels by default."""
    from runtime.progress import say

    if not without_real_images(options, options.test):
        return options
    changes: dict[str, Any] = {"data": "none", "test": False}
    if options.predictor is None and options.outputs is None and "method" not in options.model_fields_set:
        say("hard labels alone (--method none): soft labels need a --predictor")
        changes["method"] = METHODS.choose("none")
    return options.model_copy(update=changes)


def validated(result: dict[str, Any], images: TrainingImages) -> dict[str, Any]:
    """The training's result; an error on held-out fakes is no validation error, and gets a name of its own."""
    if images.validated_on != "held-out fakes":
        return {**result, "validated_on": images.validated_on}
    kept = {name: value for name, value in result.items() if not name.startswith("val_")}
    held = {name.removeprefix("val_"): result[name] for name in result if name.startswith("val_")}
    held |= {
        "images": 0 if images.val is None else len(images.val),
        "unit": images.holder.space.to_json().get("unit", ""),
    }
    return {**kept, "validated_on": images.validated_on, "held_out_fakes": held}


def protocol(options: Options, train: Any, result: Mapping[str, Any], parents: Mapping[str, str]) -> dict[str, Any]:
    """What stands beside the number; `epochs` where they were asked for, `init_from`: the digest of the start."""
    mixed = options.train_on == "mixed"
    return {
        "network": options.network.name,
        "method": options.method.name,
        "train_on": options.train_on,
        "rho": options.rho if options.train_on != "real" else None,
        "keep": options.keep if options.train_on != "real" else None,
        "weights": options.weights if options.train_on != "real" else "none",
        "mixing": options.mixing if mixed else None,
        "real_share": options.real_share if mixed else None,
        "images": len(train),
        "steps": result["steps"],
        "epochs": options.epochs,
        "init_from": parents.get("init_from"),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "data": _data_text(options),
    }


def _data_text(options: Options) -> str:
    if options.data == "none":
        return "none"
    return f"{options.data}, fold {options.fold}, {options.real_per_class or 'all'} a class"


def _test(folder: Path, data: RealData, device: Any) -> dict[str, Any]:
    from evaluation.accuracy import score

    test_score = score(load_predictor(folder, device), data.open_test(), data.label_space)
    return {**test_score, "digest": data.test_digest, "per_image": test_score["per_image"].tolist()}


def show(result: dict[str, Any]) -> str:
    """The error with its standard error and the images behind it; --json and result.json have those of each image."""
    test, held = result["test"], result.get("held_out_fakes")
    if test is not None:
        name = "test error" if test["measure"] == "error_rate" else "mean absolute test error"
        text = f"{name} {_with_error(test)}, {test['images']:,} images"
    elif held is not None and held["score"] is not None:
        measure = "error_rate" if held["metric"] == "error" else "mae"
        error = {"measure": measure, "value": held["score"], "unit": held["unit"]}
        text = f"error on {held['images']:,} held-out fakes {_with_error(error)} (no real image was read)"
    else:
        text = "no image was tested"
    seen = f" ({result['seen']})" if "seen" in result else ""
    return f"{text}, {result['classifier']}{seen}"


def _with_error(error: Mapping[str, Any]) -> str:
    """An error rate in per cent, or an error in the labels' unit, each with its standard error where it is known."""
    rate = error["measure"] == "error_rate"
    scale, unit = (100.0, " %") if rate else (1.0, f" {error['unit']}".rstrip())
    spread = error.get("standard_error")
    digits = ".2f" if rate else ".4g"
    around = "" if spread is None else f" ± {format(scale * spread, '.2f' if rate else '.2g')}"
    return f"{format(scale * error['value'], digits)}{around}{unit}"

"""Stored outputs: made by `score --views`, and taken by `distill --outputs` where a predictor would be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from commands.support.builders import check_predictor_images, load_data, load_predictor, predictor_labels
from commands.support.lineage import record_seen, seen_of
from commands.support.options import DataOptions
from commands.support.selection import data_name, open_matching_fakes
from commands.support.workspace import DATA_FLAGS, artefact, artefact_digest, resolve_input
from image_data.seen_names import CLASSIFIER
from runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from classifiers.stored_outputs import StoredTeacher
    from classifiers.storing_outputs import ViewedImages, ViewPlan
    from commands.support.selection import TrainingImages
    from image_data.label_meeting import LabelHolder


def store_views(options: Any) -> dict[str, Any]:
    """The work of `score --views`: make the folder, continue it, or find it done."""
    from classifiers.stored_outputs import read_outputs_card
    from classifiers.storing_outputs import ViewPlan, store_outputs
    from image_data.label_meeting import meet
    from runtime.devices import pick_device, set_threads
    from runtime.progress import note

    set_threads(1)
    images, holder, augmentation, parents = _images(options)
    plan = ViewPlan(options.views, options.seed, augmentation, options.pooled)
    if plan.views > 1 and not plan.augmentation:
        raise UserError(f"--views {plan.views}: without augmentation all views are the same; give --views 1.")
    if plan.views == 1 and plan.augmentation:
        note('with one view each image is shifted or mirrored for good; give more views, or --augmentation ""')
    folder = resolve_input("predictor", options.predictor, options)
    meet(holder, predictor_labels(folder))
    check_predictor_images(folder, images.image_shape, holder.name)
    parents["predictor"] = artefact_digest("predictor", folder)
    predictor: Any = load_predictor(folder, pick_device(options.device))
    with artefact("score", "outputs", options, parents, needs=partial(_needs, images, predictor, plan)) as output:
        if not output.finished:
            _check_room(output.folder, _bytes_of(images, predictor, plan))
            seen = record_seen(output.folder, seen_of("predictor", folder, CLASSIFIER))
            store_outputs(output.folder, images, predictor, parents["predictor"], plan, seen)
    card = read_outputs_card(output.folder)
    facts = {name: card[name] for name in ("views", "real", "fakes", "augmentation", "pooled")}
    return {"outputs": str(output.folder), **facts, "digest": card["source_digest"]}


def _images(options: Any) -> tuple[ViewedImages, LabelHolder, tuple[str, ...], dict[str, str]]:
    """(images, whose labels they have, augmentation, digests of the inputs)."""
    from classifiers.settings import ClassifierSettings
    from classifiers.storing_outputs import ViewedImages
    from image_data.augment import check_augmentations
    from image_data.label_meeting import LabelHolder

    given = {name: getattr(options, name) for name in DATA_FLAGS if getattr(options, name) is not None}
    where = {name: getattr(options, name) for name in ("workspace", "download", "dry_run")}
    flags: Any = DataOptions(**given, **where)
    data = None if flags.data == "none" else load_data(flags)
    parents = {} if data is None else {"data": data.digest}
    fakes = None
    if options.fakes is not None:
        folder = resolve_input("fakes", options.fakes, options)
        fakes = open_matching_fakes(folder, flags, data)
        parents["fakes"] = artefact_digest("fakes", folder)
    images = ViewedImages(None if data is None else data.train, fakes)
    if data is None:
        asked = check_augmentations(options.augmentation or (), "--augmentation")
        return images, LabelHolder("fakes", f"--fakes {options.fakes}", fakes.label_space), asked, parents  # type: ignore
    asked = ClassifierSettings(augmentation=options.augmentation).augmentations(data.allowed_augmentations)
    return images, LabelHolder("data", data_name(flags), data.label_space), asked, parents


def _bytes_of(images: ViewedImages, predictor: Any, plan: ViewPlan) -> int:
    from classifiers.storing_outputs import output_widths

    return 8 * len(images.keys) + 4 * len(images) * plan.views * sum(output_widths(predictor, plan).values())


def _needs(images: ViewedImages, predictor: Any, plan: ViewPlan) -> dict[str, Any]:
    return {"images": len(images), "disk_mb": round(_bytes_of(images, predictor, plan) / 1e6, 2)}


def _check_room(folder: Path, needed: int) -> None:
    """UserError where the disk has no room for what is not there yet."""
    from runtime.free_space import free_disk_bytes

    missing = needed - sum(path.stat().st_size for path in folder.glob("*.npy"))
    if missing > (free := free_disk_bytes(folder)):
        raise UserError(
            f"{folder} needs about {missing / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; make room, or "
            "store fewer views."
        )


def stored_teacher(options: Any, images: TrainingImages) -> StoredTeacher:
    """What --outputs holds of these training images; UserError where it is of other ones, labels or predictor, or of no
    use to the method.
    """
    from classifiers.methods import needs_teacher
    from classifiers.stored_outputs import StoredTeacher, open_outputs
    from image_data.label_meeting import meet, predictor_holder

    if not needs_teacher(options):
        raise UserError(f"--outputs is of no use to the method {options.method.name}; leave it out.")
    folder = resolve_input("outputs", options.outputs, options)
    stored = open_outputs(folder)
    if options.predictor is not None:
        given = artefact_digest("predictor", resolve_input("predictor", options.predictor, options))
        if given != stored.predictor:
            raise UserError(
                f"--outputs {folder} is of the predictor {stored.predictor[:8]}, and --predictor {options.predictor} "
                f"is {given[:8]}; give one of the two."
            )
    meet(images.holder, predictor_holder(f"--outputs {folder}", stored.card, stored.label_space), images.train.labels)
    return StoredTeacher(stored, images.train)


def stored_text(result: dict[str, Any]) -> str:
    """For people: what is stored, and where."""
    fakes = result["fakes"]
    counts: Sequence[str] = [f"{result['real']:,} real images"] if result["real"] else []
    counts = [*counts, *([f"{fakes['rows']:,} fakes"] if fakes else [])]
    changed = ", ".join(result["augmentation"]) or "no augmentation"
    views = "1 view" if result["views"] == 1 else f"{result['views']} views"
    pooled = f", {result['pooled']} pooled features" if result["pooled"] else ""
    return f"{views} ({changed}) of each of {' and '.join(counts)}{pooled}: {result['outputs']}"

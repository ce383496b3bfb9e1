"""Add scores to a dataset of fakes, whose shards stay untouched; or store outputs of views to distil from.

With a predictor: its outputs and errors.  With --nearest: how far each fake lies from its nearest training image and
from the nearest other fake of its label, for `--keep`, `inspect` and the report.  A damaged set is computed anew.

With --views K the outputs for K augmented views of each training image (real ones of --data, and fakes where --fakes
names some) become a folder of their own, from which `distill --outputs` trains without the predictor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from commands.support.builders import (
    check_predictor_images,
    error_function,
    load_data,
    load_density_ratio,
    predictor_factory,
    predictor_labels,
)
from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.lineage import record_seen, seen_of
from commands.support.options import DataOptions, Names
from commands.support.stored import store_views, stored_text
from commands.support.workspace import DATA_FLAGS, artefact_digest, data_flags, resolve_input
from image_data.seen_names import NEAREST, PREDICTOR
from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.real import RealData

POSITIONAL = "fakes"
_FAKES_HELP = "Folder of the fakes (by default the workspace's latest; of --views: none)."
_DATA_HELP = "Real images of --views (by default digits) or --nearest (by default those of the teacher)."


class Options(FakesOptions):
    """Flags of score."""

    fakes: Path | None = Field(None, description=_FAKES_HELP)
    predictor: Path | None = Field(None, description="Folder of the predictor.")
    views: int | None = Field(None, ge=1, le=10_000, description="Store outputs for so many views of each image.")
    pooled: bool = Field(False, description="With --views: store the predictor's pooled features too.")
    augmentation: Names | None = Field(None, description='Of --views, as in distill: flip, translate; "" for none.')
    nearest: bool = Field(False, description="Add distances to training images and between fakes.")
    filter: Path | None = Field(None, description="Folder of the filter whose features --nearest compares.")
    data: str | None = Field(None, description=_DATA_HELP)
    fold: int | None = Field(None, ge=0, description="Cross-fitting fold of the embedded digits (0, 1 or 2).")
    resolution: int | None = Field(None, ge=8, le=512, description="Side of the images in pixels.")
    real_per_class: int | None = Field(None, ge=1, description="Use only this many training images a class.")
    data_seed: int | None = Field(None, ge=0, description="Which images --real-per-class takes.")
    download: bool = Field(False, description="Allow the dataset to be downloaded.")


def run(options: Options) -> dict[str, Any]:
    """Score every shard that has no such scores yet."""
    from image_data.fake import open_fakes
    from image_data.fake.distances import nearest_finding

    check(options)
    if options.views is not None:
        return store_views(options)
    folder = fakes_folder(options)
    if not options.nearest:
        _predict(options, folder)
        return {"fakes": str(folder), "scores": open_fakes(folder).score_sets()}
    _measure(options, folder, options.predictor is not None)
    fakes = open_fakes(folder)
    return {"fakes": str(folder), "scores": fakes.score_sets(), "nearest": nearest_finding(fakes)}


def check(options: Options) -> None:
    """UserError naming an option that would do nothing."""
    if options.views is not None:
        if options.nearest:
            raise UserError("--views and --nearest are two works; give one of them.")
        for name in ("filter", "workers", "engine"):
            if getattr(options, name) != type(options).model_fields[name].default:
                raise UserError(f"--{name} does nothing for --views, which works in one process; leave it out.")
        return
    for name in ("pooled", "augmentation"):
        if name in options.model_fields_set:
            raise UserError(f"--{name} is for --views; give both, or leave it out.")
    if not options.nearest:
        for name in (*DATA_FLAGS, "filter", "download"):
            if name in options.model_fields_set:
                raise UserError(f"--{name.replace('_', '-')} is for --nearest or --views; give both, or leave it out.")
    elif options.predictor is None:
        for name in ("workers", "engine"):
            if getattr(options, name) != type(options).model_fields[name].default:
                raise UserError(f"--{name} is for --predictor, and --nearest works in one process; leave it out.")


def _shared(options: Options) -> FakesOptions:
    """The options without --data: what is missing is then built from the teacher's training images."""
    return FakesOptions.model_construct(**{name: getattr(options, name) for name in FakesOptions.model_fields})


def _at_home(options: Options, folder: Path) -> bool:
    """Whether the fakes lie in the workspace: what is built there from its images belongs to no others."""
    return options.workspace.resolve() in folder.resolve().parents


def _predict(options: Options, folder: Path) -> None:
    from commands.support.engine import make_engine
    from image_data.fake import open_fakes
    from image_data.label_meeting import LabelHolder, meet
    from teacher_sampler.upkeep.scoring import score

    fakes = open_fakes(folder)
    predictor = resolve_input("predictor", options.predictor, _shared(options), build=_at_home(options, folder))
    holder = LabelHolder("fakes", f"--fakes {folder}", fakes.label_space)
    meet(holder, predictor_labels(predictor), fakes.manifest.labels)
    check_predictor_images(predictor, fakes.image_shape, holder.name)
    digest = artefact_digest("predictor", predictor)
    error = error_function(fakes.label_space)
    seen = seen_of("predictor", predictor, PREDICTOR)
    work_begins(options)
    score(folder, predictor_factory(predictor, options.device), error, digest, make_engine(options, folder))
    if digest != fakes.manifest.settings.get("predictor_digest"):  # the sampler recorded what its own has seen
        record_seen(folder / "scores" / digest, seen)


def _measure(options: Options, folder: Path, predict: bool) -> None:
    from filters.nearest_scores import score_nearest
    from image_data.fake import open_fakes
    from image_data.label_meeting import LabelHolder, meet
    from runtime.devices import pick_device, set_threads
    from runtime.digests import digest_of

    set_threads(1)
    given, data = _real_images(options)
    fakes = open_fakes(folder)
    real = LabelHolder("data", f"--data {given['data']}", data.label_space)
    meet(real, LabelHolder("fakes", f"--fakes {folder}", fakes.label_space))
    if fakes.image_shape != data.train.pixels.shape[1:]:
        raise UserError(f"--fakes {folder} has images of another size than --data {given['data']}; use --resolution.")
    chosen = resolve_input("filter", options.filter, _shared(options), build=_at_home(options, folder))
    features = load_density_ratio(chosen, pick_device(options.device)).features  # type: ignore[attr-defined]
    compared = digest_of({"features": artefact_digest("filter", chosen), "data": data.digest, **given})
    if predict:
        _predict(options, folder)
    work_begins(options)
    name = score_nearest(folder, features, data.train, data.val, data.label_space.kind, compared)
    record_seen(folder / "scores" / name, data.seen_by(NEAREST), seen_of("filter", chosen))


def _real_images(options: Options) -> tuple[dict[str, Any], RealData]:
    """The flags that name the real images, and these."""
    given = {name: getattr(options, name) for name in DATA_FLAGS if getattr(options, name) is not None}
    if "data" not in given:
        given = {**data_flags(_shared(options)), **given}
    if given.get("data", "unknown") == "unknown":
        raise UserError("--nearest compares with the teacher's training images, which are not known; give --data.")
    where = {name: getattr(options, name) for name in ("workspace", "download", "dry_run")}
    return given, load_data(DataOptions(**given, **where))


def show(result: dict[str, Any]) -> str:
    """One line of stored outputs; each entry of scores in a line."""
    if "outputs" in result:
        return stored_text(result)
    return "\n".join(f"{name}: {value}" for name, value in result.items())

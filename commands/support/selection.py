"""From options to training images: real ones, selected fakes, or both (cGAN-KD's mixing rule)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from commands.support.builders import check_predictor_images, predictor_labels
from commands.support.options import DataOptions
from commands.support.workspace import DATA_FLAGS
from filters.keep_language import checked
from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.fake import FakeDataset
    from image_data.label_meeting import LabelHolder
    from image_data.real import RealData
    from image_data.sources import ImageSource

KeepText = Annotated[str, AfterValidator(checked)]
KEEP_HELP = 'Rows to use, before --rho, e.g. "density_ratio > 0.1 and error rank < 0.9".'
CUT_HELP = "rank-exact keeps ceil(rho n); strict is the published rule, error below the quantile."
MIXING_HELP = "One shuffled set (--real-share: real images repeated), or batches with --real-share real images each."
WEIGHTS_HELP = "Let each fake count as much as its density ratio says (sample --accept all)."


class SelectionOptions(DataOptions):
    """Which fakes are used, and how they are mixed with real images."""

    train_on: Literal["real", "mixed", "fakes"] = Field("mixed", description="mixed is cGAN-KD: real and fakes.")
    real_share: float | None = Field(
        None, gt=0, lt=1, description="Share of real images in a mixed training set, or in each batch of it."
    )
    mixing: Literal["concatenate", "batch-ratio"] = Field("concatenate", description=MIXING_HELP)
    fakes: Path | None = Field(None, description="Folder of the fakes.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    nfake: int | None = Field(None, ge=1, description="Fakes in all, balanced over the classes.")
    relabel: bool = Field(False, description="Replace the asked label by the predictor's.")
    scope: Literal["class", "global"] | None = Field(None, description="Over what the rho-quantile is taken.")
    cut: Literal["rank-exact", "strict"] = Field("rank-exact", description=CUT_HELP)
    keep: KeepText | None = Field(None, description=KEEP_HELP)
    weights: Literal["none", "density_ratio"] = Field("none", description=WEIGHTS_HELP)

    @field_validator("mixing")
    @classmethod
    def _with_a_share(cls, value: str, info: ValidationInfo) -> str:
        if value == "batch-ratio" and info.data.get("real_share") is None:
            raise ValueError("it needs the share of real images in each batch; give --real-share")
        return value


def open_matching_fakes(folder: Path, options: SelectionOptions, data: RealData | None) -> FakeDataset:
    """The dataset of fakes; a UserError where its labels or images are not like the real ones."""
    from image_data.fake import open_fakes
    from image_data.label_meeting import LabelHolder, check_same_labels, labels_differ
    from runtime.progress import note

    fakes = open_fakes(folder)
    if data is None:
        return fakes
    fake_shape, real_shape = ("x".join(map(str, shape)) for shape in (fakes.image_shape, data.train.pixels.shape[1:]))
    try:
        real = LabelHolder("data", data_name(options), data.label_space)
        said = check_same_labels(real, LabelHolder("fakes", f"--fakes {folder}", fakes.label_space), fakes.labels)
        if fake_shape != real_shape:
            raise UserError(
                f"--fakes {folder} has images of {fake_shape}, {real.name} of {real_shape}; use --resolution."
            )
    except UserError as error:
        if "data" in options.model_fields_set:
            raise
        difference = (
            labels_differ(data.label_space, fakes.label_space) or f"images are {real_shape} here and {fake_shape} there"
        )
        raise UserError(
            f"--data is not given, and the default, {options.data} (here), is not of --fakes {folder} (there): "
            f"{difference}; give the real images that belong to these fakes (distill --train-on fakes --no-test needs "
            "none)."
        ) from error
    if said is not None:
        note(said)
    return fakes


def without_real_images(options: SelectionOptions, test: bool) -> bool:
    """Whether no real image is to be read: `--data none`, or fakes alone, no test, and no word of real images.

    UserError where an option needs real images all the same.
    """
    given = options.model_fields_set
    real = [name for name in (*DATA_FLAGS, "download") if name in given and name != "data"]
    if options.data != "none":
        return options.train_on == "fakes" and not test and not real and "data" not in given
    if options.train_on != "fakes":
        raise UserError(f"--data none: --train-on {options.train_on} needs real images; add --train-on fakes.")
    if test and "test" in given:
        raise UserError("--data none has no test images; give --no-test.")
    if real:
        raise UserError(f"--{real[0].replace('_', '-')} is for real images, and --data none has none; leave it out.")
    return True


def check_soft_labels(folder: Path, holder: LabelHolder, asked: Any, image_shape: tuple[int, ...]) -> None:
    """UserError where the teacher of soft labels has learnt other labels (asked: the student's) or other images."""
    from image_data.label_meeting import meet

    meet(holder, predictor_labels(folder), asked)
    check_predictor_images(folder, image_shape, holder.name)


def data_name(options: DataOptions) -> str:
    """What a message calls the real images."""
    return f"--data {options.data}{'' if 'data' in options.model_fields_set else ' (the default)'}"


@dataclass(frozen=True)
class TrainingImages:
    """What a student learns from: `val` are validation images, or held-out fakes where there is no real image."""

    train: ImageSource
    val: ImageSource | None
    holder: LabelHolder
    image_shape: tuple[int, ...]
    augmentations: Sequence[str]
    validated_on: str | None


def training_images(
    options: SelectionOptions, data: RealData | None, fakes: FakeDataset | None, rho: float
) -> TrainingImages:
    """Real and selected fake images, or, without real data, fakes of which a share is held out."""
    from image_data.augment import check_augmentations
    from image_data.fake.holdout import hold_out
    from image_data.label_meeting import LabelHolder, check_several_classes
    from runtime.progress import say

    if data is not None:
        holder = LabelHolder("data", data_name(options), data.label_space)
        check_several_classes(holder, "distill")
        train, shape = mixed_source(options, data, fakes, rho), data.train.pixels.shape[1:]
        return TrainingImages(train, data.val, holder, shape, data.allowed_augmentations, "real validation images")
    if fakes is None:
        raise ValueError("there are neither real nor fake images")
    holder = LabelHolder("fakes", f"--fakes {fakes.path}", fakes.label_space)
    check_several_classes(holder, "distill")
    view, held = hold_out(fakes, select_fakes(options, fakes, rho))
    judged = "too few to hold some out" if held is None else f"{len(held)} held out to judge on"
    say(f"no real image is read: {len(view)} fakes to train on, {judged}")
    asked = check_augmentations(getattr(options, "augmentation", None) or (), "--augmentation")
    return TrainingImages(view, held, holder, fakes.image_shape, asked, None if held is None else "held-out fakes")


def mixed_source(options: SelectionOptions, data: RealData, fakes: FakeDataset | None, rho: float) -> ImageSource:
    """Training images: real and selected fakes concatenated or mixed by the batch, or one of them alone.

    Published cGAN-KD concatenates 10,000 to 50,000 real images with 100,000 fakes.  A hundred real images would drown
    among thousands of fakes; `real_share` gives them the weight that they have there.
    """
    from image_data.sources import BatchRatio, Concatenation

    if fakes is None or options.train_on == "real":
        return data.train
    view = fakes.view(select_fakes(options, fakes, rho))
    if options.train_on == "fakes":
        return view
    if options.mixing == "batch-ratio" and options.real_share is not None:
        return BatchRatio(data.train, view, options.real_share)
    return Concatenation([*[data.train] * _repeats(options.real_share, len(data.train), len(view)), view])


def _repeats(share: float | None, real: int, fakes: int) -> int:
    """How often the real images are repeated; at least once."""
    return 1 if share is None else max(1, round(share / (1 - share) * fakes / real))


def select_fakes(options: Any, fakes: FakeDataset, rho: float) -> Any:
    """The rows that --keep, rho and the counts leave, with their labels and weights."""
    from filters import select
    from runtime.progress import say

    chosen = select(
        fakes,
        rho=rho,
        nfake_per_label=options.nfake_per_class,
        nfake=options.nfake,
        relabel=options.relabel,
        scope=options.scope or ("class" if fakes.label_space.kind == "classes" else "global"),
        seed=options.seed,
        keep=options.keep,
        weights=getattr(options, "weights", "none"),
        cut=options.cut,
    )
    facts = chosen.recipe["weights"]
    if facts is not None:
        say(
            f"weights by density ratio: {len(chosen)} fakes are worth {facts['effective_share'] * len(chosen):.0f} of "
            f"equal weight, clipped mass {facts['clipped_mass']:.2%}"
        )
    return chosen


def kept_by_label(fakes: FakeDataset, keep: str) -> dict[str, Any]:
    """What a --keep leaves, for `inspect`: its text as it was understood, how many fakes, and of each label."""
    import numpy as np

    from filters import select

    chosen = select(fakes, keep=keep)
    values, counts = np.unique(np.asarray(fakes.labels)[chosen.rows], axis=0, return_counts=True)
    by_label = [
        {"label": label, "images": count} for label, count in zip(values.tolist(), counts.tolist(), strict=True)
    ]
    return {"keep": chosen.recipe["keep"], "images": len(chosen), "of": len(fakes), "by_label": by_label}

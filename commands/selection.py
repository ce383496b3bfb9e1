"""From options to training images: real ones, selected fakes, or both (cGAN-KD's mixing rule)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from commands.options import DataOptions
from commands.parts import card_labels
from filters.keep_language import checked
from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.fake import FakeDataset
    from image_data.real import RealData
    from image_data.sources import ImageSource

KeepText = Annotated[str, AfterValidator(checked)]
KEEP_HELP = 'Rows to use, before --rho, e.g. "density_ratio > 0.1 and error rank < 0.9".'
CUT_HELP = "rank-exact keeps ceil(rho n); strict is the published rule, error below the quantile."
WEIGHTS_HELP = "Let each fake count as much as its density ratio says (sample --accept all)."


class SelectionOptions(DataOptions):
    """Which fakes are used, and how they are mixed with real images."""

    train_on: Literal["real", "mixed", "fakes"] = Field("mixed", description="mixed is cGAN-KD: real and fakes.")
    real_share: float | None = Field(
        None, gt=0, lt=1, description="Repeat the real images until they make up this share of a mixed training set."
    )
    fakes: Path | None = Field(None, description="Folder of the fakes.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    nfake: int | None = Field(None, ge=1, description="Fakes in all, balanced over the classes.")
    relabel: bool = Field(False, description="Replace the asked label by the predictor's.")
    scope: Literal["class", "global"] | None = Field(None, description="Over what the rho-quantile is taken.")
    cut: Literal["rank-exact", "strict"] = Field("rank-exact", description=CUT_HELP)
    keep: KeepText | None = Field(None, description=KEEP_HELP)
    weights: Literal["none", "density_ratio"] = Field("none", description=WEIGHTS_HELP)


def open_matching_fakes(folder: Path, options: SelectionOptions, data: RealData) -> FakeDataset:
    """The dataset of fakes; a UserError where its labels or images are not like the real ones."""
    from image_data.fake import open_fakes
    from image_data.label_meeting import LabelHolder, meet

    fakes = open_fakes(folder)
    real = LabelHolder("data", data_name(options), data.label_space)
    meet(real, LabelHolder("fakes", f"--fakes {folder}", fakes.label_space), fakes.manifest.labels)
    if tuple(fakes.image_shape) != data.train.pixels.shape[1:]:
        theirs, ours = (
            "x".join(str(side) for side in shape) for shape in (fakes.image_shape, data.train.pixels.shape[1:])
        )
        raise UserError(f"--fakes {folder} has images of {theirs}, --data {options.data} of {ours}; use --resolution.")
    return fakes


def check_soft_labels(folder: Path, options: SelectionOptions, data: RealData) -> None:
    """UserError where the teacher of soft labels has learnt other labels than the real images have."""
    from image_data.label_meeting import LabelHolder, meet

    real = LabelHolder("data", data_name(options), data.label_space)
    meet(real, LabelHolder("network", f"--predictor {folder}", card_labels(folder)), data.train.labels)


def data_name(options: DataOptions) -> str:
    """What a message calls the real images."""
    return f"--data {options.data}{'' if 'data' in options.model_fields_set else ' (the default)'}"


def mixed_source(options: SelectionOptions, data: RealData, fakes: FakeDataset | None, rho: float) -> ImageSource:
    """Training images: real and selected fakes concatenated, or one of them alone.

    Published cGAN-KD concatenates 10,000 to 50,000 real images with 100,000 fakes.  A hundred real images would drown
    among thousands of fakes; `real_share` gives them the weight that they have there.
    """
    from image_data.sources import Concatenation

    if fakes is None or options.train_on == "real":
        return data.train
    view = fakes.view(select_fakes(options, fakes, rho))
    if options.train_on == "fakes":
        return view
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

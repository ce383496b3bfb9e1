"""From options to objects: real data, generators, filters and predictors, also inside worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.support.dry_run import work_begins
from commands.support.options import DataOptions

if TYPE_CHECKING:
    import torch

    from image_data.label_meeting import LabelHolder
    from image_data.real import RealData
    from interfaces import DensityRatio, LabelSpace, Predictor, Teacher
    from teacher_sampler.adapted import Adaptation
    from teacher_sampler.sampling.sampler import SamplingParts


def load_data(options: DataOptions, **changes: Any) -> RealData:
    """The real images that the options name; the label histogram and what was left out go to stderr."""
    from image_data.real import is_here, load_real
    from runtime.progress import note, say

    settings: dict[str, Any] = {
        "fold": options.fold,
        "resolution_px": options.resolution,
        "real_per_class": options.real_per_class,
        "seed": options.data_seed,
        "download": options.download,
    }
    if options.dry_run and options.download and not is_here(options.data):
        work_begins(options, f"as far as possible without {options.data}, which is not downloaded yet")
    data = load_real(options.data, **{**settings, **changes})
    say(data.histogram())
    for line in data.remarks:
        note(line)
    return data


def load_generator(reference: str | Path, device: torch.device) -> Teacher:
    """A teacher (folder or address) or a student generator: the card's architecture tells which."""
    from student_trainer import GENERATORS, load_student
    from teacher_sampler import load_teacher
    from teacher_sampler.remote.address import is_url
    from training.generator_folder import read_card

    if not is_url(reference) and read_card(Path(reference)).architecture in GENERATORS:
        return load_student(Path(reference), device)
    return load_teacher(reference, device)


def load_predictor(folder: Path, device: torch.device) -> Predictor:
    """A trained classifier or regressor as a predictor."""
    from classifiers import load_classifier

    return load_classifier(folder, device)


def load_density_ratio(folder: Path, device: torch.device) -> DensityRatio:
    """A fitted filter."""
    from filters import load_filter

    return load_filter(folder, device)


def predictor_labels(folder: Path) -> LabelHolder:
    """The labels of a predictor's folder, from its card alone."""
    from classifiers.predictor import read_classifier_card
    from image_data.label_meeting import predictor_holder
    from image_data.labels import label_space_from_json

    card = read_classifier_card(folder)
    return predictor_holder(f"--predictor {folder}", card, label_space_from_json(card["label_space"]))


def check_predictor_images(folder: Path, shape: Sequence[int], whose: str) -> None:
    """UserError where a predictor takes other images than those of `whose`, C x H x W."""
    from classifiers.predictor import check_shape, read_classifier_card

    check_shape(read_classifier_card(folder), shape, f"--predictor {folder}", whose)


def error_function(label_space: LabelSpace) -> Any:
    """The teacher error of this kind of label (DESIGN: cross entropy, or absolute error in the user's units)."""
    from filters.teacher_error import classification_error, regression_error

    return classification_error if label_space.kind == "classes" else regression_error


@dataclass(frozen=True)
class MakeSamplingParts:
    """What a worker process needs to build the sampler's parts; called once in each."""

    teacher: str | Path
    filter: Path | None
    predictor: Path | None
    device: str
    ceiling_quantile: float = 0.999
    adaptation: Adaptation | None = None
    accept_all: bool = False  # with a filter: its ratios are stored, and nothing is rejected

    def __call__(self) -> SamplingParts:
        from filters.acceptance import Acceptance
        from runtime.devices import pick_device
        from teacher_sampler.adapted import Adaptation, adapt
        from teacher_sampler.sampling.sampler import SamplingParts

        device = pick_device(self.device)
        generator = adapt(load_generator(self.teacher, device), self.adaptation or Adaptation())
        return SamplingParts(
            teacher=generator,
            density_ratio=load_density_ratio(self.filter, device) if self.filter else None,
            predictor=load_predictor(self.predictor, device) if self.predictor else None,
            acceptance=Acceptance(quantile=self.ceiling_quantile) if self._rejects else Acceptance.none(),
            error=error_function(generator.label_space),
        )

    @property
    def _rejects(self) -> bool:
        return self.filter is not None and not self.accept_all


def predictor_factory(folder: Path, device: str) -> partial[Predictor]:
    """A picklable maker of the predictor, for `score`."""
    return partial(_make_predictor, folder, device)


def _make_predictor(folder: Path, device: str) -> Predictor:
    from runtime.devices import pick_device

    return load_predictor(folder, pick_device(device))

"""Whether each method of a comparison can serve its networks, asked before the first part is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from classifiers import ClassifierPredictor, check_training
from classifiers.methods import needs_teacher
from classifiers.networks import build_student
from commands.support.builders import load_predictor
from commands.support.classifier_flags import classifier_settings
from commands.support.compared import options_of
from commands.support.resolving import resolve
from interfaces import Predictor
from training.methods import METHODS

if TYPE_CHECKING:
    from image_data.real import RealData


def check_fit(options: Any, data: RealData, predictor: Path | None) -> None:
    """UserError for a method, network and teacher that do not go together.

    options: compare's; predictor: the one that all rows share, None where each seed trains its own.
    """
    teachers = [*_teachers(options, data, predictor)]
    steps = options.model_copy(update={"epochs": None})  # compare's epochs are a second column
    for network in options.networks:
        for method in options.methods:
            beside = METHODS.choose("none") if METHODS.get(method.name).whole_loss else options.beside
            settings = classifier_settings(steps, network, method, beside=beside, init_from=None)
            for teacher in teachers if needs_teacher(settings) else [None]:
                check_training(data.train, data.val, data.label_space, settings, data.allowed_augmentations, teacher)


def _teachers(options: Any, data: RealData, predictor: Path | None) -> Iterator[Predictor]:
    """Those of soft labels and features; untrained where a seed will train them."""
    device = torch.device("cpu")
    folders = {one["predictor"] for one in options.sets.values() if "predictor" in one}
    for folder in [*([predictor] if predictor else []), *sorted(folders)]:
        yield load_predictor(Path(folder), device)
    channels, resolution_px = data.train.pixels.shape[1:3]
    trained = [("train-classifier", options.parts["train-classifier"])] if "train-classifier" in options.parts else []
    trained += [("distill", one["teacher"]) for one in options.sets.values() if isinstance(one.get("teacher"), dict)]
    for command, given in trained:
        network = resolve(options_of(command), None, given).network
        untrained = build_student(network, channels, resolution_px, data.label_space)
        yield ClassifierPredictor({}, untrained, data.label_space, device)

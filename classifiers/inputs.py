"""What a classifier's training is refused for, before any work; and the weights that it may start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from classifiers.networks import StudentNetwork
from classifiers.predictor import ClassifierPredictor, load_classifier, network_of
from classifiers.settings import ClassifierSettings
from classifiers.stored_outputs import StoredTeacher
from image_data.label_meeting import LabelHolder, check_same_labels, meet, predictor_holder
from image_data.labels import label_space_from_json
from image_data.sources import ImageSource
from interfaces import LabelSpace, Predictor
from runtime.errors import UserError
from runtime.registry import Choice
from training.methods import METHODS


def check_inputs(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    teacher: Predictor | StoredTeacher | None,
) -> tuple[int, int]:
    """(channels, resolution in px) of the images, or a UserError before any work."""
    if not len(train):
        raise UserError("there are no training images; give real images, fakes, or both.")
    label_space.check(train.labels, "the training labels")
    shape = train.images(np.array([0])).shape
    if val is not None:
        label_space.check(val.labels, "the validation labels")
        if not len(val) or val.images(np.array([0])).shape != shape:
            raise UserError(
                f"the validation images are none, or of another shape than the training images {shape[1:]}."
            )
    if settings.selection == "best-validation" and val is None:
        raise UserError("selection best-validation needs validation images; give some, or use selection last.")
    if teacher is not None and "logits" in METHODS.get(settings.method.name).requires:
        if isinstance(teacher, StoredTeacher):
            width = teacher.width
        else:
            width = teacher(torch.from_numpy(train.images(np.array([0])))).shape[-1]
        if width != label_space.width:
            raise UserError(
                f"the teacher gives {width} outputs, but the labels need {label_space.width}; "
                "take a predictor that was trained on the same label space."
            )
        if "label_space" in teacher.card:
            space = label_space_from_json(teacher.card["label_space"])
            holder = predictor_holder("the teacher of soft labels", teacher.card, space)
            check_same_labels(LabelHolder("data", "the training images", label_space), holder)
    return int(shape[1]), int(shape[2])


def training_augmentations(
    settings: ClassifierSettings, allowed: Sequence[str], teacher: Predictor | StoredTeacher | None
) -> tuple[str, ...]:
    """How the training images are changed; UserError where the data do not allow it, or stored outputs differ."""
    names = settings.augmentations(allowed)
    if isinstance(teacher, StoredTeacher):
        teacher.stored.check_augmentation(names)
    return names


def _described(network: Choice, shape: tuple[int, int]) -> str:
    settings = "".join(f"{name} {value}, " for name, value in network.arguments().items())
    return f"{network} ({settings}{shape[0]}x{shape[1]} px)"


def start_from(
    network: StudentNetwork, settings: ClassifierSettings, shape: tuple[int, int], label_space: LabelSpace
) -> str | None:
    """Copy the weights of `settings.init_from`; returns their digest.  UserError where the networks differ."""
    if settings.init_from is None:
        return None
    source: ClassifierPredictor = load_classifier(Path(settings.init_from), torch.device("cpu"))
    if source.card.get("foreign"):
        raise UserError(f"{settings.init_from} was imported from another program; take one of train-classifier's.")
    card = source.card
    held = _described(network_of(card), (card["channels"], card["resolution_px"]))
    wanted = _described(settings.network, shape)
    if held != wanted:
        raise UserError(f"{settings.init_from} holds {held}, not the student {wanted}; take one that fits.")
    if "head" in card:
        raise UserError(
            f"{settings.init_from} predicts by the head of the method that trained it ({card['head']['name']}), which "
            "is no student's own; take one that was trained without, e.g. by the method none."
        )
    start = LabelHolder("network", f"--init-from {settings.init_from}", source.label_space)
    exact = label_space.kind == "continuous"  # its outputs are in units of the range
    meet(LabelHolder("data", "the training images", label_space), start, exact=exact)
    network.load_state_dict(source.network.state_dict())
    return str(card["source_digest"])

"""The method of a classifier's training: built for its student and teacher; what the teacher gives of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from classifiers.networks import StudentNetwork
from classifiers.predictor import ClassifierPredictor
from classifiers.settings import ClassifierSettings
from interfaces import LabelSpace, Predictor
from interfaces.method import Method, Views
from layers.features import FeatureReader, Insides
from runtime.errors import UserError
from runtime.registry import Choice
from training.distilling import MethodSpace, build_method
from training.methods import METHODS

_OF_THE_BATCH = {"labels", "sample_index", "rotations"}
_OF_THE_TEACHER = {"logits", "features"}


def needs_teacher(settings: Any) -> bool:
    """Whether the method of the settings (or of options with the same names) looks at a teacher."""
    return any(METHODS.get(choice.name).requires & _OF_THE_TEACHER for choice in _choices(settings))


def _choices(settings: Any) -> list[Choice]:
    """The method, and what stands beside it where it is no whole loss; UserError where the two do not go together."""
    method, beside = settings.method, settings.beside
    if not METHODS.get(beside.name).whole_loss:
        raise UserError(
            f"--beside {beside.name} leaves out the labels; give none or blkd there, {beside.name} as method."
        )
    if not METHODS.get(method.name).whole_loss:
        return [method, beside]
    if beside != METHODS.choose("none"):
        raise UserError(f"--beside {beside.name}: the method {method.name} is a whole loss; leave --beside out.")
    return [method]


def build_classifier_method(
    settings: ClassifierSettings,
    network: StudentNetwork,
    label_space: LabelSpace,
    labels: torch.Tensor,
    teacher: Predictor | None,
    image_shape: Sequence[int],
) -> Method:
    """The method of the settings, with what stands beside it where it is no whole loss; a head of its own is put in.

    labels: encoded, of all training images; image_shape: (C, H, W).  UserError where the method requires what is not
    there, e.g. features of a predictor that is a program.
    """
    given, absent = set(_OF_THE_BATCH), {}
    if teacher is None:
        absent = dict.fromkeys(_OF_THE_TEACHER, "it needs a teacher; give --predictor, or take the method none")
    elif isinstance(teacher, ClassifierPredictor) and teacher.has_insides:
        given |= _OF_THE_TEACHER
    else:
        given.add("logits")
        absent["features"] = "this predictor is a program without insides; take one that was trained here, or blkd"
    space = MethodSpace(
        student=_insides(network, image_shape, "student"),
        teacher=_insides(teacher.network, image_shape, "teacher") if "features" in given else None,  # type: ignore
        label_space=label_space,
        labels=labels,
    )
    method = build_method(_choices(settings), space, settings.seed, given, absent)
    if (head := method.head()) is not None:
        network.head = head.to(next(network.parameters()).device)
    return method


def _insides(network: torch.nn.Module, image_shape: Sequence[int], owner: str) -> Insides:
    device = next(network.parameters()).device
    return Insides(network, (torch.zeros(2, *image_shape, dtype=torch.uint8, device=device),), owner)


class TeacherViews:
    """What the teacher gives of the very images that the student sees; nothing where the method asks for nothing."""

    def __init__(self, teacher: Predictor | None, method: Method) -> None:
        self._teacher = teacher if method.requires & _OF_THE_TEACHER else None
        self._reader: FeatureReader | None = None
        if method.teacher_features and isinstance(teacher, ClassifierPredictor):
            self._reader = teacher.reader(method.teacher_features)

    def __call__(self, images: torch.Tensor) -> Views:
        """uint8 images on the device -> outputs and features on the device."""
        if self._teacher is None:
            return Views()
        if self._reader is None:
            return Views(self._teacher(images))
        return self._teacher.views(images, self._reader)  # type: ignore[attr-defined]

"""The method of a classifier's training: built for its student and teacher; what the teacher gives of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from classifiers.networks import StudentNetwork
from classifiers.predictor import ClassifierPredictor
from classifiers.settings import ClassifierSettings
from classifiers.stored_outputs import StoredTeacher
from interfaces import LabelSpace, Predictor
from interfaces.method import Method, Views
from layers.features import FeatureReader, Insides
from runtime.errors import UserError
from runtime.registry import Choice
from training.compiling import compile_passes, plain_passes
from training.distilling import MethodSpace, build_method
from training.methods import METHODS

_OF_THE_BATCH = {"labels", "sample_index", "rotations"}
_OF_THE_TEACHER = {"logits", "features"}
_OWN_VIEWS = "stored outputs are of the training images as they are augmented, and of no other views; give --predictor"


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
    teacher: Predictor | StoredTeacher | None,
    image_shape: Sequence[int],
) -> Method:
    """The method of the settings, with what stands beside it where it is no whole loss; a head of its own is put in.

    labels: encoded, of all training images; image_shape: (C, H, W).  UserError where the method requires what is not
    there, e.g. features of a predictor that is a program.
    """
    given, absent = _given_with(teacher)
    space = MethodSpace(
        student=_insides(network, image_shape, "student"),
        teacher=_teacher_insides(teacher, image_shape) if "features" in given else None,
        label_space=label_space,
        labels=labels,
    )
    choices = _choices(settings)
    try:
        method = build_method(choices, space, settings.seed, given, absent)
    except UserError as error:
        requires = METHODS.get(settings.method.name).requires
        if isinstance(teacher, StoredTeacher) and "features" in requires and requires <= given:
            raise UserError(_more_than_stored(settings, teacher, str(error).split(";")[0].rstrip("."))) from error
        raise
    if isinstance(teacher, StoredTeacher):
        if type(method).inputs is not Method.inputs:
            raise UserError(f"method {settings.method.name} requires views of its own: {_OWN_VIEWS}.")
        if others := set(method.teacher_features) - {"pooled"}:
            raise UserError(_more_than_stored(settings, teacher, f"it reads {', '.join(sorted(others))}"))
    if (head := method.head()) is not None:
        network.head = head.to(next(network.parameters()).device)
    return method


def _more_than_stored(settings: ClassifierSettings, teacher: StoredTeacher, why: str) -> str:
    return (
        f"method {settings.method.name} asks for more of a teacher than --outputs {teacher.stored.folder} holds, its "
        f"outputs and pooled features ({why}); give its folder as --predictor, or take blkd."
    )


def _given_with(teacher: Predictor | StoredTeacher | None) -> tuple[set[str], dict[str, str]]:
    """(what a training with this teacher can give of `Method.requires`, why not and what to do for the rest)."""
    if teacher is None:
        absent = "it needs a teacher; give --predictor, or take the method none"
        return _OF_THE_BATCH, dict.fromkeys(_OF_THE_TEACHER, absent)
    if isinstance(teacher, StoredTeacher):
        pooled = set() if teacher.insides is None else {"features"}
        absent = "give its folder as --predictor, store pooled features too (score --views K --pooled), or take blkd"
        return (_OF_THE_BATCH - {"rotations"}) | {"logits"} | pooled, {"features": absent, "rotations": _OWN_VIEWS}
    if isinstance(teacher, ClassifierPredictor) and teacher.has_insides:
        return _OF_THE_BATCH | _OF_THE_TEACHER, {}
    absent = "this predictor is a program without insides; take one that was trained here, or blkd"
    return _OF_THE_BATCH | {"logits"}, {"features": absent}


def _teacher_insides(teacher: Any, image_shape: Sequence[int]) -> Insides | None:
    if isinstance(teacher, StoredTeacher):
        return teacher.insides
    return _insides(teacher.network, image_shape, "teacher")


def _insides(network: torch.nn.Module, image_shape: Sequence[int], owner: str) -> Insides:
    device = next(network.parameters()).device
    return Insides(network, (torch.zeros(2, *image_shape, dtype=torch.uint8, device=device),), owner)


class TeacherViews:
    """What the teacher gives of the very images that the student sees; nothing where the method asks for nothing."""

    def __init__(
        self, teacher: Predictor | StoredTeacher | None, method: Method, seed: int, device: torch.device
    ) -> None:
        self._teacher = teacher if method.requires & _OF_THE_TEACHER else None
        self._features, self._seed, self._device = method.teacher_features, seed, device
        self._reader: FeatureReader | None = None
        if method.teacher_features and isinstance(teacher, ClassifierPredictor):
            self._reader = teacher.reader(method.teacher_features)

    def compile(self) -> None:
        """Compile the teacher's pass, where it is a network and not a program."""
        if isinstance(self._teacher, ClassifierPredictor) and self._teacher.has_insides:
            read = self._reader.modules if self._reader else ()
            compile_passes(self._teacher.network, read, while_training=False)

    def __call__(self, images: torch.Tensor, rows: np.ndarray, step: int) -> Views:
        """uint8 images on the device, and which training rows they are -> outputs and features on the device."""
        if self._teacher is None:
            return Views()
        if isinstance(self._teacher, StoredTeacher):
            stored = self._teacher.outputs(rows, self._seed, step, self._features)
            features = {name: value.to(self._device) for name, value in stored.features.items()}
            return Views(stored.output.to(self._device), features)
        if self._reader is None:
            return Views(self._teacher(images))
        return self._teacher.views(images, self._reader)  # type: ignore[attr-defined]


def plain_teacher(teacher: Predictor | StoredTeacher | None) -> None:
    """Undo `TeacherViews.compile`."""
    if isinstance(teacher, ClassifierPredictor):
        plain_passes(teacher.network)

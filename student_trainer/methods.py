"""The methods of a student generator's training: built for student and teacher; what they get of each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from interfaces import Teacher
from interfaces.method import Batch, Method, Views
from layers.features import FeatureReader, Insides
from runtime.registry import Choice
from student_trainer.data import Batch as Pairs
from student_trainer.data import StudentData
from training.distilling import MethodSpace, Moment, build_method
from training.generator_folder import NetworkGenerator

_EXAMPLES = 2  # images of the pass that tells the shapes


def build_student_method(
    methods: Sequence[Choice], data: StudentData, student: nn.Module, teacher: Teacher | None
) -> Method | None:
    """The method, or the sum of several; None for none.  UserError where one requires what is not there."""
    if not methods:
        return None
    given, absent = {"images", "labels", "sample_index"}, {"features": "it needs the teacher's insides; give --teacher"}
    insides = None
    if isinstance(teacher, NetworkGenerator):
        given.add("features")
        insides = Insides(teacher.network, _examples(data), "teacher")
    elif teacher is not None:
        absent = {"features": "this teacher is a black box without insides; take one that was trained here"}
    labels = data.label_space.encode(data.pairs.asked_labels(data.kept))
    space = MethodSpace("method", Insides(student, _examples(data), "student"), insides, data.label_space, labels)
    return build_method(methods, space, data.settings.seed, given, absent)


def _examples(data: StudentData) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and encoded labels."""
    space = data.label_space
    encoded = torch.zeros(_EXAMPLES, dtype=torch.int64)
    if space.kind == "continuous":
        encoded = torch.full((_EXAMPLES, space.width), 0.5)
    latents = torch.linspace(-1, 1, _EXAMPLES * data.latent_dim).view(_EXAMPLES, -1)
    return latents.to(data.device), encoded.to(data.device)


class TeacherViews:
    """The teacher's stored images, and its features for the same (z, y) where a method reads them."""

    def __init__(self, teacher: Teacher | None, method: Method) -> None:
        self._reader: FeatureReader | None = None
        if method.teacher_features and isinstance(teacher, NetworkGenerator):
            self._reader = FeatureReader(teacher.network, method.teacher_features, "teacher")

    def __call__(self, pairs: Pairs) -> Views:
        if self._reader is None:
            return Views(pairs.images)
        with torch.no_grad():
            return Views(pairs.images, self._reader(pairs.latents, pairs.encoded).features)


def method_batch(pairs: Pairs, data: StudentData, at: Moment) -> Batch:
    """What belongs to the rows of a batch of pairs."""
    epoch = at.step * data.settings.batch_size / len(data.kept)
    return Batch(pairs.encoded, None, pairs.index, at.stage.name, at.step, at.steps, epoch)

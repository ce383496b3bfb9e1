"""Small methods in the manner of published ones: what they need of a trainer, they get from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch, Method, Stage, Views
from layers.heads import HEADS
from layers.label_losses import hard_loss, soft_loss
from training.distilling import MethodSpace
from training.methods import METHODS


@contextmanager
def registered(registry: Any, name: str, entry: Any) -> Iterator[str]:
    """The entry for the time of a test."""
    registry.register(name)(entry)
    try:
        yield name
    finally:
        del registry._declared[name]


class Bank(Method):
    """Like CRD: an embedding of both pooled vectors, and a memory bank of the teacher's by sample index."""

    requires = frozenset({"features", "sample_index"})
    student_features = teacher_features = ("pooled",)

    def __init__(self, space: MethodSpace) -> None:
        super().__init__()
        student, teacher = space.insides()
        self.ours = nn.Linear(student.shape("pooled", dims=1)[0], 8)
        self.other = nn.Linear(teacher.shape("pooled", dims=1)[0], 8)
        assert space.labels is not None
        self.register_buffer("bank", functional.normalize(torch.randn(len(space.labels), 8), dim=1))

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        ours = functional.normalize(self.ours(student.features["pooled"].float()), dim=1)
        other = functional.normalize(self.other(teacher.features["pooled"].float()), dim=1)
        logits = ours @ self.bank.clone().T / 0.07
        contrast = functional.cross_entropy(logits, batch.sample_index)
        match = (ours - other).square().sum(dim=1).mean()
        with torch.no_grad():
            row = 0.5 * self.bank[batch.sample_index] + 0.5 * other
            self.bank[batch.sample_index] = functional.normalize(row, dim=1)
        return {"loss": contrast + match, "contrast": contrast, "match": match}


class Factors(Method):
    """Like FT: first the teacher's paraphraser alone, the student untouched; then both together."""

    requires = frozenset({"features"})

    def __init__(self, space: MethodSpace) -> None:
        super().__init__()
        student, teacher = space.insides()
        (self.teacher_features, channels), (self.student_features, own) = (
            ((insides.maps_by_size()[4, 4],), insides.shape(insides.maps_by_size()[4, 4])[0])
            for insides in (teacher, student)
        )
        self.encoder, self.decoder = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.translator = nn.Sequential(nn.Conv2d(own, 4, 1), nn.BatchNorm2d(4))

    def stages(self) -> tuple[Stage, ...]:
        return Stage("paraphraser", share=0.5, trains_student=False, lr_factor=0.5), Stage()

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        wanted = teacher.features[self.teacher_features[0]]
        if batch.stage == "paraphraser":
            assert not student.features
            return {"loss": (self.decoder(self.encoder(wanted)) - wanted).square().mean()}
        with torch.no_grad():
            factor = self.encoder(wanted)
        ours = self.translator(student.features[self.student_features[0]])
        return {"loss": (ours - factor).abs().mean()}


class Projector(nn.Module):
    """Like SimKD's: the student's last map into the teacher's channels, then the teacher's own linear layer."""

    reads_map = True

    def __init__(self, student_channels: int, teacher_channels: int, outputs: int) -> None:
        super().__init__()
        arguments = {"student_channels": student_channels, "teacher_channels": teacher_channels, "outputs": outputs}
        self.card = {"name": "toy-projector", "arguments": arguments}
        self.project = nn.Sequential(nn.Conv2d(student_channels, teacher_channels, 1), nn.BatchNorm2d(teacher_channels))
        self.linear = nn.Linear(teacher_channels, outputs).requires_grad_(False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear(self.project(maps).mean(dim=(2, 3)))


class ReplacedHead(Method):
    """Like SimKD: the projected last map is compared with the teacher's; no label is read."""

    requires = frozenset({"features"})
    whole_loss = True
    student_features, teacher_features = ("head.project",), ("stage3",)

    def __init__(self, space: MethodSpace) -> None:
        super().__init__()
        student, teacher = space.insides()
        linear: Any = teacher.network.head
        head = Projector(student.shape("stage3")[0], teacher.shape("stage3")[0], linear.out_features)
        head.linear.load_state_dict(linear.state_dict())
        self._head = (head,)  # in a tuple: a part of the student, not of the method

    def head(self) -> nn.Module:
        return self._head[0]

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": (student.features["head.project"] - teacher.features["stage3"]).square().mean()}


class Rotations(Method):
    """Like SSKD: upright rows learn the labels, all rows the teacher's soft labels, above a head of its own."""

    requires = frozenset({"labels", "logits", "rotations"})
    whole_loss = True

    def __init__(self, space: MethodSpace) -> None:
        super().__init__()
        assert space.label_space is not None
        self.head_of_teacher = nn.Linear(space.label_space.width, space.label_space.width)

    def stages(self) -> tuple[Stage, ...]:
        return Stage("head", share=0.25, trains_student=False), Stage()

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        rows = 4 * len(batch.labels)
        if batch.stage == "head":
            return {"loss": hard_loss(self.head_of_teacher(teacher.output)[::4], batch.labels)}
        assert len(student.output) == len(teacher.output) == rows
        hard, soft = hard_loss(student.output[::4], batch.labels), soft_loss(student.output, teacher.output, 4.0)
        return {"loss": hard + soft, "hard": hard, "soft": soft}


def toy_entries() -> dict[str, tuple[Any, Any]]:
    """name -> (registry, entry)."""
    return {
        "toy-bank": (METHODS, Bank), "toy-factors": (METHODS, Factors), "toy-head": (METHODS, ReplacedHead),
        "toy-rotations": (METHODS, Rotations), "toy-projector": (HEADS, Projector),
    }  # fmt: skip

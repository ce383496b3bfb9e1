"""Losses on pairs of feature maps, one of the teacher and one of the student each.

L = weight x sum over pairs of w_k loss(student map, teacher map), with w_k = 1 / pairs unless a method says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch, Method, Views
from layers.label_losses import weighted_mean
from runtime.errors import UserError
from training.distilling import MethodSpace

Shape = tuple[int, ...]  # (C, H, W)
Names = tuple[tuple[str, str], ...]  # (teacher's, student's)


class PairedMaps(Method):
    """Base of these losses: a subclass says with `loss` or `loss_of_shapes` what is computed of one pair."""

    requires = frozenset({"features"})
    takes_any_size: ClassVar[bool] = False  # the loss itself brings maps of unequal size together

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str], resize_maps: bool) -> None:
        """UserError: no insides, unknown names, no maps of equal size, maps of unequal size without resize_maps."""
        super().__init__()
        student, teacher = space.insides()
        named = pairs_of(pairs) or self.default_pairs(space)
        self.name, self.weight, self.resize_maps = space.name, weight, resize_maps
        self.teacher_features, self.student_features = (tuple(names) for names in zip(*named, strict=True))
        losses = []
        for teacher_name, student_name in named:
            shapes = student.shape(student_name), teacher.shape(teacher_name)
            if shapes[0][1:] != shapes[1][1:] and not (resize_maps or self.takes_any_size):
                sizes = [f"{shape[1]} x {shape[2]}" for shape in shapes]
                raise UserError(
                    f"method {self.name}: {teacher_name!r} is {sizes[1]}, {student_name!r} is {sizes[0]}; pair maps of "
                    "equal size, or set resize_maps."
                )
            try:
                losses.append(self.loss_of_shapes(*shapes))
            except UserError as error:
                raise UserError(
                    f"method {self.name}: the student's {student_name!r} and the teacher's {teacher_name!r}: {error}"
                ) from error
        self.losses = nn.ModuleList(losses)

    def default_pairs(self, space: MethodSpace) -> Names:
        """Where none are named."""
        return maps_of_equal_size(space)

    def level_weights(self, count: int) -> Sequence[float]:
        """w_k of each of `count` pairs."""
        return [1 / count] * count

    def loss_of_shapes(self, student: Shape, teacher: Shape) -> nn.Module:
        """The loss of one pair, whose maps have these shapes before any resizing.  UserError where there is none."""
        return self.loss(student[0], teacher[0])

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """The loss of one pair with its adapters: (student N x C_s x H x W, teacher N x C_t x H x W) -> scalar.

        It may also give N values, one for each row, or N x N, one for each two: `Batch.weights` then weighs them.
        """
        raise NotImplementedError

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        terms = {}
        for student_name, teacher_name, loss, level in zip(
            self.student_features, self.teacher_features, self.losses, self.level_weights(len(self.losses)), strict=True
        ):
            ours, other = student.features[student_name], teacher.features[teacher_name].detach()
            if self.resize_maps:
                ours, other = smaller_size(ours, other)
            value = weighted_mean(loss(ours, other), batch.weights) * (self.weight * level)
            terms[f"{self.name}[{teacher_name} -> {student_name}]"] = value
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def pairs_of(texts: Sequence[str]) -> Names:
    """(teacher's, student's) names from texts TEACHER:STUDENT; UserError for any other text."""
    pairs = [tuple(text.split(":")) for text in texts]
    for text, pair in zip(texts, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise UserError(f"the pair of features {text!r} must be TEACHER:STUDENT, as in stage1:stage1.")
    return tuple((pair[0], pair[1]) for pair in pairs)


def maps_of_equal_size(space: MethodSpace) -> Names:
    """(teacher's, student's) last maps of each size that both have, small ones first; UserError where there is none."""
    student, teacher = (insides.maps_by_size() for insides in space.insides())
    sizes = sorted(set(student) & set(teacher))
    if not sizes:
        raise UserError(
            f"method {space.name}: no map of the teacher (sizes {sorted(teacher)}) has the size of one of the "
            f"student's ({sorted(student)}); name the pairs, and set resize_maps."
        )
    return tuple((teacher[size], student[size]) for size in sizes)


def smaller_size(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both maps at the smaller height and width of the two, by average pooling."""
    if one.shape[2:] == other.shape[2:]:
        return one, other
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)

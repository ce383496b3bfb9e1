"""Published losses on a classifier's stages: which maps they pair, and what they have in common.

A stage is a map that the network names stage1, stage2, ...; stage1_preact is the same before its last ReLU.  Generators
name none: there the last maps of equal size take the place of the stages.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch, Method, Stage, Views
from layers.features import Insides, feature_paths
from layers.label_losses import weighted_mean
from runtime.errors import UserError
from training.distilling import MethodSpace
from white_box.losses.pairs import Names, PairedMaps, maps_of_equal_size, pairs_of

Maps = Sequence[torch.Tensor]
PREACT = "_preact"


def in_float32(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function of tensors in float32, whatever the precision of the pass around it."""

    @functools.wraps(function)
    def whole(*tensors: torch.Tensor, **more: Any) -> torch.Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*(tensor.float() for tensor in tensors), **more)

    return whole


@in_float32
def attention(maps: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x (H W): the channels' mean square at each place, as a unit vector."""
    return functional.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def stage_names(insides: Insides) -> list[str]:
    """stage1, stage2, ... in order, as far as the network names them and they are maps."""
    named = feature_paths(insides.network)
    stages = [name for name in named if re.fullmatch(r"stage\d+", name) and len(insides.shapes.get(name, ())) == 3]
    return sorted(stages, key=lambda name: int(name.removeprefix("stage")))


def paired_stages(space: MethodSpace) -> Names:
    """All stages in order; where their numbers differ the last maps of equal size, in the student's order."""
    student, teacher = (stage_names(insides) for insides in space.insides())
    if student and len(student) == len(teacher):
        return tuple(zip(teacher, student, strict=True))
    order = list(space.insides()[0].shapes)
    return tuple(sorted(maps_of_equal_size(space), key=lambda pair: order.index(pair[1])))


def last_stages(space: MethodSpace) -> Names:
    """The last stage of both; else the last maps of equal size."""
    student, teacher = (stage_names(insides) for insides in space.insides())
    return ((teacher[-1], student[-1]),) if student and teacher else paired_stages(space)[-1:]


class FunctionOfMaps(nn.Module):
    """A loss without adapters: (student, teacher) -> one value for each row, or for each two."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return self.function(student, teacher)


class PairedStages(PairedMaps):
    """L = weight x sum over pairs of the loss.

    The larger of two maps is averaged to the smaller first, unless the loss takes any size.
    """

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str]) -> None:
        super().__init__(space, weight, pairs, resize_maps=not self.takes_any_size)

    def default_pairs(self, space: MethodSpace) -> Names:
        return paired_stages(space)

    def level_weights(self, count: int) -> Sequence[float]:
        return [1.0] * count


class NeighbouringMaps(Method):
    """Base of losses between each map and the next, whose channels student and teacher must have in equal number.

    L = weight x sum over k of loss_k.
    """

    requires = frozenset({"features"})

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str]) -> None:
        """UserError: fewer than two maps, unequal numbers of stages, or unequal widths."""
        super().__init__()
        student, teacher = space.insides()
        named = pairs_of(pairs) or self.default_pairs(space)
        self.name, self.weight = space.name, weight
        if len(named) < 2:
            raise UserError(f"method {self.name} compares neighbouring maps; name at least two pairs.")
        self.teacher_features, self.student_features = (tuple(names) for names in zip(*named, strict=True))
        for teacher_name, student_name in named:
            channels, wanted = student.shape(student_name)[0], teacher.shape(teacher_name)[0]
            if channels != wanted:
                raise UserError(
                    f"method {self.name} needs equal widths: the student's {student_name!r} has {channels} channels, "
                    f"the teacher's {teacher_name!r} {wanted}; take networks of one family and width, or another "
                    "method."
                )

    def default_pairs(self, space: MethodSpace) -> Names:
        """All stages; UserError where one network has more than the other."""
        student, teacher = (stage_names(insides) for insides in space.insides())
        if len(student) != len(teacher):
            raise UserError(
                f"method {space.name} needs equally many stages: the student has {len(student)}, the teacher "
                f"{len(teacher)}; name the pairs, or take another method."
            )
        return paired_stages(space)

    def losses_of(self, student: Maps, teacher: Maps) -> list[torch.Tensor]:
        """The maps in order -> N values for each two neighbours."""
        raise NotImplementedError

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        ours = [student.features[name] for name in self.student_features]
        others = [teacher.features[name].detach() for name in self.teacher_features]
        terms = {}
        for index, rows in enumerate(self.losses_of(ours, others)):
            names = [", ".join(levels[index : index + 2]) for levels in (self.teacher_features, self.student_features)]
            terms[f"{self.name}[{' -> '.join(names)}]"] = self.weight * weighted_mean(rows, batch.weights)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def initialisation(share: float) -> tuple[Stage, ...]:
    """The stages of a method that only prepares the student: its loss alone at first, then none of it."""
    return Stage("initialisation", share=share), Stage(reads_features=False)

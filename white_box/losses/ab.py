"""AB: the student's responses lie on the teacher's side of the activation boundary, learnt before the labels.

Source: Heo et al. 2019, arXiv 1811.03233, equation 7: (s + m)^2 where s > -m and the teacher's t <= 0, (s - m)^2 where
s <= m and t > 0, m the margin, summed over the entries; maps are those before the ReLU.  s is behind a connector
(convolution and batch norm; none where the shapes are equal).  As in RepDistiller, level k of n counts 2^(k - n + 1)
times 3 / 1000.  The loss prepares the student in a stage of its own and is not used afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from interfaces.method import Batch, Stage, Views
from layers.features import Insides, feature_paths
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pairs import Names, Shape
from white_box.losses.regressors import Regressor
from white_box.losses.stages import PREACT, PairedStages, in_float32, initialisation
from white_box.settings_maps import BoundarySettings

SCALE = 3 / 1000


@in_float32
def boundary_loss(student: torch.Tensor, teacher: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """Equally shaped maps N x C x H x W -> N: the squared ways back to the margin, summed over each row's entries."""
    towards = torch.where(teacher > 0, -student, student)  # positive on the wrong side
    return (towards + margin).relu().square().flatten(1).sum(dim=1)


class Boundary(nn.Module):
    """The connector and the loss of one pair."""

    def __init__(self, student: Shape, teacher: Shape, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.connector = nn.Identity() if student == teacher else Regressor(student, teacher, relu=False)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return boundary_loss(self.connector(student), teacher, margin=self.margin)


@METHODS.register("ab", settings=BoundarySettings)
class ActivationBoundaries(PairedStages):
    """L = weight x 3/1000 sum over k of 2^(k - n + 1) mean over rows of the loss, in the first stage; then nothing."""

    takes_any_size = True

    def __init__(
        self, space: MethodSpace, weight: float, pairs: Sequence[str], margin: float, stage_share: float
    ) -> None:
        self._margin, self._stages = margin, initialisation(stage_share)
        super().__init__(space, weight, pairs)

    def default_pairs(self, space: MethodSpace) -> Names:
        student, teacher = space.insides()
        pairs = super().default_pairs(space)
        return tuple((_before_relu(teacher, other), _before_relu(student, own)) for other, own in pairs)

    def level_weights(self, count: int) -> Sequence[float]:
        return [SCALE * 2.0 ** (level - count + 1) for level in range(count)]

    def loss_of_shapes(self, student: Shape, teacher: Shape) -> nn.Module:
        return Boundary(student, teacher, self._margin)

    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        return super().forward(student, teacher, batch) if batch.stage == self._stages[0].name else {}


def _before_relu(insides: Insides, name: str) -> str:
    return name + PREACT if name + PREACT in feature_paths(insides.network) else name

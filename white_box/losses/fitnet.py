"""FitNet: a regressor of the student's map must give the teacher's.

Source: Romero et al. 2015, arXiv 1412.6550, equation 3; trained beside the labels as in RepDistiller.  There the
regressor ends in a ReLU, which cannot give the negative values of maps without one (WRN, MobileNetV2): by default only
a teacher's map without negative values gets it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layers.features import FeatureReader, Insides, quiet
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.feature_l2 import squared_difference
from white_box.losses.pairs import Names, Shape
from white_box.losses.regressors import Regressor
from white_box.losses.stages import PairedStages, paired_stages, stage_names
from white_box.settings_maps import FitNetSettings, ReluRule


class Hint(nn.Module):
    """The regressor and the loss of one pair."""

    def __init__(self, student: Shape, teacher: Shape, relu: bool) -> None:
        super().__init__()
        self.regressor = Regressor(student, teacher, relu)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return squared_difference(self.regressor(student), teacher)


@METHODS.register("fitnet", settings=FitNetSettings)
class FitNet(PairedStages):
    """L = weight x sum over pairs of MSE(r(F_S), F_T)."""

    takes_any_size = True

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str], relu: ReluRule) -> None:
        self._relu = relu == "always"
        super().__init__(space, weight, pairs)
        if relu == "fit":
            signed = signed_maps(space.insides()[1], self.teacher_features)
            for name, hint in zip(self.teacher_features, self.losses, strict=True):
                assert isinstance(hint, Hint)
                hint.regressor.relu = name not in signed

    def default_pairs(self, space: MethodSpace) -> Names:
        """The second stages; without stages the middle one of the maps of equal size."""
        student, teacher = (stage_names(insides)[1:2] for insides in space.insides())
        if student and teacher:
            return ((teacher[0], student[0]),)
        pairs = paired_stages(space)
        return pairs[len(pairs) // 2 :][:1]

    def loss_of_shapes(self, student: Shape, teacher: Shape) -> nn.Module:
        return Hint(student, teacher, self._relu)


def signed_maps(insides: Insides, names: Sequence[str]) -> set[str]:
    """Those of the names whose maps have negative values, by one pass on example inputs; images are noise."""
    generator = torch.Generator().manual_seed(0)
    examples = [
        torch.randint(0, 256, one.shape, generator=generator, dtype=torch.uint8).to(one.device)
        if one.dtype == torch.uint8
        else one
        for one in insides.examples
    ]
    with quiet(insides.network):
        features = FeatureReader(insides.network, names, insides.owner)(*examples).features
    return {name for name, feature in features.items() if bool((feature < 0).any())}

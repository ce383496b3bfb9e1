"""Mean squared difference of feature maps behind a learned 1 x 1 adapter.

Source: GAN Compression (Li et al., CVPR 2020): MSE(A F_S, F_T), A a 1 x 1 convolution with bias from the student's
width to the teacher's, trained in the generator's optimiser.  The mean over all entries keeps the weight independent
of batch, width and resolution.
"""

from __future__ import annotations

import torch
from torch import nn

from training.methods import METHODS
from white_box.losses.pairs import PairedMaps
from white_box.settings import PairSettings


def squared_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Equally shaped maps N x C x H x W -> float32 N: mean (S - T)^2 over the entries of each row."""
    return (student.float() - teacher.detach().float()).square().flatten(1).mean(dim=1)


class AdaptedL2(nn.Module):
    """The adapter and the loss of one pair."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """N x C_s x H x W and N x C_t x H x W -> N values >= 0."""
        return squared_difference(self.adapter(student), teacher)


@METHODS.register("feature_l2", settings=PairSettings)
class FeatureL2(PairedMaps):
    """L = weight x mean over pairs of MSE(A F_S, F_T)."""

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return AdaptedL2(student_channels, teacher_channels)

"""VID: the student's map tells of the teacher's: a Gaussian bound on their mutual information.

Source: Ahn et al. 2019, arXiv 1904.05835, equations 5 and 6, without the constant.  mu is three 1 x 1 convolutions
without bias, the variance one number a channel, v = softplus(p) + 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.stages import PairedStages, in_float32
from white_box.settings_maps import InformationSettings

LEAST_VARIANCE = 1e-5


@in_float32
def gaussian_bound(mean: torch.Tensor, teacher: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Maps N x C x H x W and p of C -> N: mean of ((mu - T)^2 / v + log v) / 2 over the entries of each row."""
    variance = functional.softplus(log_scale) + LEAST_VARIANCE
    apart = (mean - teacher).square().mean(dim=(2, 3))
    return (apart / variance + variance.log()).mean(dim=1) / 2


class GaussianOfTeacher(nn.Module):
    """The regressor, the variances and the loss of one pair."""

    def __init__(self, student_channels: int, teacher_channels: int, first_variance: float) -> None:
        super().__init__()
        first = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        second, third = (nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False) for _ in range(2))
        self.regressor = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        start = max(first_variance - LEAST_VARIANCE, LEAST_VARIANCE)
        start += math.log(-math.expm1(-start))  # the inverse of softplus, without overflow
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return gaussian_bound(self.regressor(student), teacher, self.log_scale)


@METHODS.register("vid", settings=InformationSettings)
class VariationalInformation(PairedStages):
    """L = weight x sum over pairs of the negative bound."""

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str], first_variance: float) -> None:
        self._first_variance = first_variance
        super().__init__(space, weight, pairs)

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return GaussianOfTeacher(student_channels, teacher_channels, self._first_variance)

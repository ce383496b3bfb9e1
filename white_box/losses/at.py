"""AT: student and teacher look at the same places.

Source: Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2 with p = 2, as a mean of squares over the places
(RepDistiller), not a norm.
"""

from __future__ import annotations

import torch
from torch import nn

from training.methods import METHODS
from white_box.losses.stages import FunctionOfMaps, PairedStages, attention
from white_box.settings_maps import AttentionSettings


def attention_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """N x C_s x H x W and N x C_t x H x W -> N: mean over the places of (Q_S - Q_T)^2."""
    return (attention(student) - attention(teacher)).square().mean(dim=1)


@METHODS.register("at", settings=AttentionSettings)
class AttentionTransfer(PairedStages):
    """L = weight x sum over pairs of mean (Q_S - Q_T)^2."""

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return FunctionOfMaps(attention_difference)

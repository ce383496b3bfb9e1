"""NST: the student's channels are distributed as the teacher's, by maximum mean discrepancy.

Source: Huang and Wang 2017, arXiv 1707.01219, equation 6 with the polynomial kernel k(a, b) = (a . b)^2 on channels as
unit vectors over the places.  The kernel matrices are batched products: nothing of size C x C x H x W is formed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.methods import METHODS
from white_box.losses.stages import FunctionOfMaps, PairedStages, in_float32
from white_box.settings_maps import NeuronSelectivitySettings


@in_float32
def selectivity_discrepancy(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """N x C_s x H x W and N x C_t x H x W -> N: mean k(t, t) + mean k(s, s) - 2 mean k(s, t) over channel pairs."""
    s, t = (functional.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def _mean_kernel(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.bmm(one, other.mT).square().mean(dim=(1, 2))


@METHODS.register("nst", settings=NeuronSelectivitySettings)
class NeuronSelectivity(PairedStages):
    """L = weight x sum over pairs of the squared discrepancy."""

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return FunctionOfMaps(selectivity_discrepancy)

"""SP: two images that are alike to the teacher are alike to the student.

Source: Tung and Mori 2019, arXiv 1907.09682, equations 2 to 4: G = F F', rows of unit length, |G_T - G_S|_F^2 / B^2.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pairs import Names
from white_box.losses.stages import FunctionOfMaps, PairedStages, in_float32, last_stages
from white_box.settings_maps import SimilaritySettings


@in_float32
def similarity_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Features of B rows in any shape -> B x B: (G_T - G_S)^2."""
    ours, other = (functional.normalize(rows @ rows.T, dim=1) for rows in (student.flatten(1), teacher.flatten(1)))
    return (other - ours).square()


@METHODS.register("sp", settings=SimilaritySettings)
class SimilarityPreserving(PairedStages):
    """L = weight x sum over pairs of mean (G_T - G_S)^2; entry (i, j) counts as its rows' weights multiplied."""

    whole_batch = True  # no mean over rows
    takes_any_size = True

    def default_pairs(self, space: MethodSpace) -> Names:
        return last_stages(space)

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return FunctionOfMaps(similarity_difference)

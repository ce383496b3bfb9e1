"""KDSVD: how the leading directions of one map's channels lie to those of the next.

Source: Lee et al. 2018, arXiv 1807.06819, in the form of RepDistiller.  The map of a sample is a matrix X of places x
channels.  The teacher's direction v_T is its first right singular vector; the student's v_S is, of its first four, the
one that is most parallel to v_T, with its sign.  Between neighbouring maps R[a, b] = exp(-(v_(k+1)[a] - v_k[b])^2 / 8),
and the loss is the sum of (R_S - R_T)^2.  Directions live in channel space: both networks need equal widths.

A decomposition leaves the sign of v_T open, and R depends on it: as published, the loss changes with the library that
decomposes, and pulls the student to one side for one image and to the other for the next.  By default the sum of v_T
over the channels is therefore not negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.stages import Maps, NeighbouringMaps, in_float32
from white_box.settings_maps import DirectionSigns, SingularVectorSettings

CANDIDATES = 4  # of the student's directions
LEAST_GAP = 1e-6  # between squared singular values, as a share of the largest


class LeadingDirections(torch.autograd.Function):
    """X, N x P x C -> its first `count` right singular vectors, N x C x count, signs as they come.

    First-order perturbation of X'X, whose eigenvalues are l_i:

        dv_i = sum over j != i of v_j (v_j' d(X'X) v_i) / (l_i - l_j)

    Only gaps to the leading vectors enter, and none is taken as smaller than `LEAST_GAP`: torch's own gradient of the
    decomposition is NaN as soon as any two singular values are equal, e.g. those of two dead channels.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, count: int) -> torch.Tensor:
        _, values, rows = torch.linalg.svd(x, full_matrices=False)
        ctx.save_for_backward(x, values.square(), rows.mT)
        ctx.count = count
        return rows.mT[:, :, :count].contiguous()

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, squares, vectors = ctx.saved_tensors
        (slope,) = slopes
        leading, floor = vectors[:, :, : ctx.count], LEAST_GAP * squares[:, :1, None].clamp(min=1e-30)
        gaps = squares[:, None, : ctx.count] - squares[:, :, None]  # N x r x count: l_i - l_j
        own = torch.eye(gaps.shape[1], ctx.count, dtype=torch.bool, device=x.device)
        inverse = (gaps / (gaps.square() + floor.square())).masked_fill(own, 0)
        along = vectors.mT @ slope
        # What lies outside the span of all vectors has the eigenvalue 0.
        outside = (slope - vectors @ along) / torch.maximum(squares[:, None, : ctx.count], floor)
        y = vectors @ (inverse * along) + outside
        return (x @ leading) @ y.mT + (x @ y) @ leading.mT, None


@in_float32
def directions(student: torch.Tensor, teacher: torch.Tensor, signs: DirectionSigns = "positive") -> torch.Tensor:
    """Maps N x C x H x W and N x C x h x w -> (v_S, v_T) as 2 x N x C."""
    s, t = (maps.flatten(2).mT for maps in (student, teacher.detach()))
    wanted: torch.Tensor = LeadingDirections.apply(t, 1)  # type: ignore[no-untyped-call]
    if signs == "positive":
        wanted = torch.where(wanted.sum(dim=1, keepdim=True) < 0, -wanted, wanted)
    candidates: torch.Tensor = LeadingDirections.apply(s, CANDIDATES)  # type: ignore[no-untyped-call]
    cosines = (candidates.mT @ wanted).detach().squeeze(2)  # N x candidates
    chosen = functional.one_hot(cosines.abs().argmax(dim=1), cosines.shape[1]) * cosines.sign()
    return torch.stack([(candidates @ chosen[:, :, None]).squeeze(2), wanted.squeeze(2)])


def direction_differences(student: Maps, teacher: Maps, signs: DirectionSigns = "positive") -> list[torch.Tensor]:
    """Maps in order, equally wide level by level -> for each two neighbours N values, sum of (R_S - R_T)^2."""
    levels = [directions(s, t, signs=signs) for s, t in zip(student, teacher, strict=True)]
    rows = []
    for earlier, later in pairwise(levels):
        ours, other = torch.exp(-(later[:, :, :, None] - earlier[:, :, None, :]).square() / 8)
        rows.append((ours - other).square().sum(dim=(1, 2)))
    return rows


@METHODS.register("kdsvd", settings=SingularVectorSettings)
class SingularDirections(NeighbouringMaps):
    """L = weight x sum over neighbouring maps of mean over rows of sum (R_S - R_T)^2."""

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str], signs: DirectionSigns) -> None:
        self.signs = signs
        super().__init__(space, weight, pairs)

    def losses_of(self, student: Maps, teacher: Maps) -> list[torch.Tensor]:
        return direction_differences(student, teacher, self.signs)

"""Kernel alignment: how alike two sets of features order the same rows, whatever their widths.

Source: CAT (Jin et al., CVPR 2021).  KA(X, Y) = |Y' X|_F^2 / (|X' X|_F |Y' Y|_F) for row-matched X (m x p) and
Y (m x q); in [0, 1]; 1 for Y = c X Q with Q orthogonal.  The released code has one row a sample, the paper one row a
position; both forms are here, and the position form is the default.  With centred columns KA is linear CKA.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pairs import PairedMaps
from white_box.settings import KernelAlignmentSettings

Rows = Literal["position", "sample"]
EPSILON = 1e-8


def rows_of(maps: torch.Tensor, rows: Rows) -> torch.Tensor:
    """N x C x H x W -> float32 matrix: (N H W) x C for "position", N x (C H W) for "sample"."""
    if rows == "sample":
        return maps.float().flatten(1)
    return maps.float().movedim(1, -1).flatten(0, -2)


def kernel_alignment(x: torch.Tensor, y: torch.Tensor, centred: bool = False) -> torch.Tensor:
    """KA of X (m x p) and Y (m x q) in float32 -> scalar in [0, 1]; 0 where a matrix is all zero.

    The narrower products are formed: p x q, p x p and q x q where the rows outnumber the columns, m x m otherwise.
    Each matrix is first divided by its root mean square (KA does not see scale), which keeps the squares in range.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        if centred:
            x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        x, y = _unit_scale(x), _unit_scale(y)
        if len(x) < x.shape[1] + y.shape[1]:
            k, other = x @ x.T, y @ y.T
            top, bottom = (k * other).sum(), k.norm() * other.norm()
        else:
            top, bottom = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
        return top / (bottom + EPSILON)


def _unit_scale(x: torch.Tensor) -> torch.Tensor:
    """x with Frobenius norm 1; the gradient stays finite for an all-zero x."""
    return x * (x.square().sum() + EPSILON**2).rsqrt()


class OneMinusAlignment(nn.Module):
    """1 - KA of one pair.  It has no parameters; equal batch and size are needed, widths may differ."""

    def __init__(self, rows: Rows, centred: bool) -> None:
        super().__init__()
        self.rows, self.centred = rows, centred

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """N x C_s x H x W and N x C_t x H x W -> scalar in [0, 1]."""
        x, y = rows_of(student, self.rows), rows_of(teacher.detach(), self.rows)
        return 1.0 - kernel_alignment(x, y, self.centred)


@METHODS.register("kernel_alignment", settings=KernelAlignmentSettings)
class KernelAlignment(PairedMaps):
    """L = weight x mean over pairs of (1 - KA(F_S, F_T))."""

    whole_batch = True  # no mean over rows

    def __init__(self, space: MethodSpace, rows: Rows, centred: bool, **pairs: Any) -> None:
        self.rows, self.centred = rows, centred
        super().__init__(space, **pairs)

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return OneMinusAlignment(self.rows, self.centred)

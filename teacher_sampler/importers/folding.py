"""Spectral normalisation of foreign checkpoints folded into their weights, by the estimate that each program used.

Neither form divides by the exact largest singular value: on layers that had not converged, that is another network.
All arithmetic is in float64; the result has the weight's own type.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def fold_one_step(weight: torch.Tensor, u0: torch.Tensor) -> torch.Tensor:
    """`weight / sigma`, sigma from one power-iteration step that starts at the stored `u0`, whose norm is free.

    weight: out x ..., u0: 1 x out or out.  With M the weight as out x rest: v = n(u0 M), u = n(v M^T),
    sigma = v M^T u^T (BigGAN-PyTorch, which does so at every forward, in eval mode too).
    """
    matrix = _matrix(weight)
    right = F.normalize(u0.detach().double().reshape(-1) @ matrix, dim=0)
    return _divided(weight, (matrix @ right).norm())


def fold_stored(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`weight / sigma` with sigma = u^T M v of the stored vectors, no iteration (torch's hook in eval mode).

    weight: out x ..., u: out, v: rest, where M is the weight as out x rest.
    """
    matrix = _matrix(weight)
    return _divided(weight, u.detach().double().reshape(-1) @ matrix @ v.detach().double().reshape(-1))


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().double().flatten(1)


def _divided(weight: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return (weight.detach().double() / sigma).to(weight.dtype)

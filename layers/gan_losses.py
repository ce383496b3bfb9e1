"""Adversarial losses as plain functions of tensors."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def hinge_discriminator(
    real_logits: torch.Tensor,
    fake_logits: torch.Tensor,
    real_weights: torch.Tensor | None = None,
    fake_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """mean w_r max(0, 1 - D(x)) + mean w_g max(0, 1 + D(G(z))); weights 1 where none are given.

    Hinge loss of Lim and Ye (2017); the weights are CcGAN's vicinal weights (Ding et al. 2021, SVDL).
    """
    real, fake = F.relu(1.0 - real_logits), F.relu(1.0 + fake_logits)
    if real_weights is not None:
        real = real * real_weights
    if fake_weights is not None:
        fake = fake * fake_weights
    return real.mean() + fake.mean()


def hinge_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """- mean D(G(z))."""
    return -fake_logits.mean()


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of the squared norm of d logits / d images (Mescheder et al. 2018, eq. 9, without the 1/2).

    `images` must require a gradient and be what `logits` were computed from.
    """
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()

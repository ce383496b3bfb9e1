"""The terms of a student generator's loss as pure functions of tensors.

Sources: TinyGAN (Chang and Lu 2020), section 3; DiStyleGAN (Masouris et al. 2023).  S is the student, T the teacher's
stored image, D the discriminator.  D pools by the mean, unlike the original's, so that its scale does not depend on
the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

FEATURE_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of TinyGAN's five discriminator maps, shallow to deep


def feature_weights(maps: int) -> tuple[float, ...]:
    """Weights of `maps` discriminator maps, shallow to deep: the last ones of 1/32, 1/16, 1/8, 1/4, 1."""
    head = tuple(FEATURE_WEIGHTS[0] / 2**step for step in range(maps - len(FEATURE_WEIGHTS), 0, -1))
    return head + FEATURE_WEIGHTS[max(0, len(FEATURE_WEIGHTS) - maps) :]


def feature_l1(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """sum_i w_i mean |D_i(T) - D_i(S)| over lists of equally shaped maps -> scalar.  The teacher's side is detached."""
    terms = [
        weight * (ours - target.detach()).abs().mean()
        for ours, target, weight in zip(student, teacher, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def pixel_l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean |T - S| over all entries of two N x C x H x W batches in [-1, 1] -> scalar."""
    return (student - teacher.detach()).abs().mean()


def peak_signal_to_noise(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each pair: 10 log10(range^2 / MSE), range 2 for images in [-1, 1].  N x C x H x W -> N."""
    error = (student - teacher).square().flatten(1).mean(dim=1)
    return 10.0 * torch.log10(4.0 / error.clamp_min(1e-12))

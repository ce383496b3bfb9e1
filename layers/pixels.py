"""The one way from a generator's output to the images that are stored."""

from __future__ import annotations

import torch


def quantise(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> uint8: (x + 1) * 127.5, rounded half to even, clamped.  (The original programs truncate.)"""
    return images.float().add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)

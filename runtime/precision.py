"""Reduced precision of a training's passes; weights, losses and updates stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def passes(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a network's forward pass: convolutions and products in bfloat16 where asked for, else nothing.

    Outputs may then be bfloat16; callers take `.float()` of what enters a loss.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)

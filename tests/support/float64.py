"""Trainings in float64, so that a comparison shows what is computed and not how a processor rounds.

In float32 another order of summation changes the last bits, an activation near zero falls on the other side, and a
few steps later the losses differ in the third digit: how far depends on the processor.  In float64 the same happens
nine orders of magnitude lower, out of reach of a bound that a wrong batch, weight or gradient would break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

_from_numpy = torch.from_numpy


def _double_from_numpy(array: np.ndarray) -> torch.Tensor:
    found = _from_numpy(array)
    return found.double() if found.dtype == torch.float32 else found


def _double(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
    return tensor.double(*arguments, **named)


@contextmanager
def float64_trainings() -> Iterator[None]:
    """New modules are float64, and so is what the program makes of pixels and latents (`float()`, `from_numpy`)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, "float", _double), patch.object(torch, "from_numpy", _double_from_numpy):
            yield
    finally:
        torch.set_default_dtype(before)

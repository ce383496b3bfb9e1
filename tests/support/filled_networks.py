"""Weights of the parity networks: a formula of the entry's place in the state dict and the index, in 32 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def filled(described: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Name -> tensor for every entry of a fixture's `state_dict`, in its names.

    One hash of index and place for each number; gains and the last bias's addition as the fixture's `fill` has them.
    """
    fill, entries = described["fill"], described["state_dict"]
    last_bias = [name for name, _, _ in entries if name.endswith("bias")][-1]
    found = {}
    for place, (name, shape, _) in enumerate(entries):
        u = _uniform(place, max(1, math.prod(shape)))
        if len(shape) > 1:
            value = (2 * u - 1) * math.sqrt(3) * math.sqrt(fill["w_gain"] / math.prod(shape[1:]))
        elif name.endswith("running_mean"):
            value = 0.4 * (u - 0.5)
        elif name.endswith("running_var"):
            value = 0.5 + u
        elif name.endswith("bias"):
            value = 0.3 * (u - 0.5) + (fill["last_bias_add"] if name == last_bias else 0.0)
        else:
            value = fill["bn_gain"] * (0.75 + 0.5 * u) if shape else 0 * u
        found[name] = torch.from_numpy(value.astype(np.float32).reshape(shape))
    return found


def _uniform(place: int, count: int) -> np.ndarray:
    """float64 in (0, 1)."""
    with np.errstate(over="ignore"):
        h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(place) * np.uint32(0x85EBCA77)
        h += np.uint32(1)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            h ^= h >> np.uint32(shift)
            h *= np.uint32(factor)
        h ^= h >> np.uint32(16)
    return np.asarray((h + 0.5) / 2**32)

"""Every schedule of every training: factors of a step's number, at full strength 1.

`step` counts from 0; a step's factor depends on nothing else, so that a resume needs no scheduler's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def ramp(done: float, length: float) -> float:
    """Linear from 0 to 1 over `length`, then 1; 1 throughout where the length is 0."""
    return 1.0 if length <= 0 else min(1.0, max(0.0, done / length))


def warm_up(step: int, steps: float) -> float:
    """Linear over the first `steps`: 1 / steps at step 0, 1 from step `steps` - 1 on."""
    return ramp(step + 1, steps)


def linear_decay(position: float, begin: float, end: float) -> float:
    """1 until `begin`, then linear to 0 at `end`; 1 throughout where they are equal."""
    return ramp(end - position, end - begin)


def cosine(step: float, steps: float) -> float:
    """Half a cosine, from 1 at step 0 to 0 at `steps` (Loshchilov and Hutter 2017, SGDR, eq. 5)."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def milestones(step: int, steps: int, shares: Sequence[float], factor: float) -> float:
    """Times `factor` at each of these shares of all steps."""
    return factor ** sum(step >= share * steps for share in shares)


def between(start: float, end: float, share: float) -> float:
    """From `start` (share 0) to `end` (share 1), linearly."""
    return start + (end - start) * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the optimiser's next step, for all its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate

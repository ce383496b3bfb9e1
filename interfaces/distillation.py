"""The one shape of every distillation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import torch


Outputs: TypeAlias = "Mapping[str, torch.Tensor]"


@runtime_checkable
class DistillationLoss(Protocol):
    """(student outputs, teacher outputs, batch) -> named scalars with a mandatory "loss".  Pure maths, no I/O."""

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]: ...

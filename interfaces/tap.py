"""Named module outputs, read by forward hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Tap(Protocol):
    """Holds the outputs of the last forward pass by module path; every asked path must have fired."""

    def outputs(self) -> dict[str, torch.Tensor]: ...

    def close(self) -> None: ...

"""Terms for a student generator whose teacher's insides are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class WhiteBoxTerms(Protocol):
    """An nn.Module whose own parameters (adapters) are trained with the student.

    `attach` is called once, before training.  A call follows the student's forward pass on the same (latents,
    labels): it runs the frozen teacher, reads both networks' taps and returns weighted, named scalars.
    """

    def attach(self, student: torch.nn.Module) -> None: ...

    def __call__(self, latents: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]: ...

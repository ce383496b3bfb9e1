"""How much memory a training will take, measured on small batches of its own networks before it begins.

What grows with the batch are the tensors that autograd keeps for the backward pass.  They are counted for two and for
four images, which gives the share that each image adds; nothing is guessed from a network's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from runtime.free_space import free_memory_bytes

PROCESS_BYTES = 700 << 20  # Python, torch and its libraries, before any tensor
_SLACK = 1.5  # gradients of activations, work space of convolutions, what the allocator holds back


def kept_for_backward(forward: Callable[[int], torch.Tensor], batch: int) -> int:
    """Bytes that autograd keeps of `forward(batch)`, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(batch)
    return sum(kept.values())


def training_needs(
    networks: Iterable[nn.Module],
    forward: Callable[[int], torch.Tensor],
    batch: int,
    copies: int,
    data_bytes: int,
    device: torch.device,
) -> dict[str, Any]:
    """The `needs` of a dry run: MB that the training will take, beside what is free.

    forward: a step's pass for so many images, on the CPU.  copies: of each weight in memory (itself, gradient, the
    optimiser's moments, EMA).  data_bytes: images held.  Within a factor of 2 of the peak that was measured.
    """
    weights = sum(value.numel() * value.element_size() for network in networks for value in network.parameters())
    two, four = (kept_for_backward(forward, size) for size in (2, 4))
    activations = two + (four - two) / 2 * max(0, batch - 2)
    takes = PROCESS_BYTES + data_bytes + copies * weights + _SLACK * activations
    needs: dict[str, Any] = {"memory_mb": round(takes / 1e6), "of_which_batch_mb": round(_SLACK * activations / 1e6)}
    if device.type != "cpu":
        return {**needs, "memory_is": f"about; all but the process and the data on {device}"}
    free = free_memory_bytes()
    if free is None:
        return needs
    needs["memory_free_mb"] = round(free / 1e6)
    if takes > 2 * free:  # not merely near: the estimate may be wrong by a factor of two
        needs["refused"] = (
            f"this training takes about {takes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
            "give a smaller --batch-size or network."
        )
    return needs

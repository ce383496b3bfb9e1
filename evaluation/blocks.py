"""Inference in blocks of one fixed size, so that an image's result does not depend on how many came with it.

Convolution kernels are chosen by batch size, and their last digits differ; a last, short block is filled with zeros
and the surplus thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from runtime.errors import UserError

EVALUATION_BATCH = 128


class FixedBlocks:
    """Calls `forward` (uint8 block on `device` -> float block x k) and gathers float32 N x k on the CPU.

    `shape` is the (C, H, W) that the network takes; a None entry takes any size.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        shape: Sequence[int | None],
        device: torch.device,
        rows: int = EVALUATION_BATCH,
    ) -> None:
        self.forward, self.shape, self.device, self.rows = forward, tuple(shape), device, rows

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """uint8 N x C x H x W -> float32 N x k."""
        stack = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
        self._check(stack)
        pieces = []
        for start in range(0, max(len(stack), 1), self.rows):
            block = stack[start : start + self.rows].to(self.device)
            count = len(block)
            if count < self.rows:
                block = torch.cat([block, block.new_zeros((self.rows - count, *block.shape[1:]))])
            pieces.append(self.forward(block)[:count].float().cpu())
        return torch.cat(pieces)

    def _check(self, images: torch.Tensor) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, not {images.dtype}")
        fits = images.ndim == 4 and all(
            want is None or want == got for want, got in zip(self.shape, images.shape[1:], strict=True)
        )
        if not fits:
            want = " x ".join("any" if size is None else str(size) for size in self.shape)
            got = " x ".join(str(size) for size in images.shape[1:])
            raise UserError(f"the evaluating network reads images of {want}, not {got}; use one trained for this size.")

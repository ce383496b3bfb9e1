"""A 3x3 convolution of an image that was doubled by repeating its pixels, without making the doubled image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of the four pixels that one pixel turns into


class UpsampledConv2d(nn.Conv2d):
    """N x in x H x W -> N x out x 2H x 2W: nearest upsampling by 2, then a 3x3 convolution with padding 1.

    After upsampling, the nine taps of an output pixel fall on only 2x2 input pixels.  So in eval mode each of the four
    pixels that an input pixel turns into is a 2x2 convolution whose taps are sums of the nine: 16 multiplications for
    an input pixel and pair of channels in place of 36.  Equal to the plain form but for rounding; in train mode, and
    in an exported program, it is the plain form.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self._kept: tuple[torch.Tensor, tuple[int, int], list[torch.Tensor]] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training or torch.compiler.is_compiling():
            return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        height, width = x.shape[2:]
        pixels = [
            # One row and one column more than the input; the window at (a, b) begins at input pixel (a - 1, b - 1).
            F.conv2d(x, taps, self.bias, padding=1)[:, :, row : row + height, column : column + width]
            for (row, column), taps in zip(CORNERS, self._corner_taps(), strict=True)
        ]
        out = pixels[0].new_empty((len(x), 2 * height, 2 * width, self.out_channels)).permute(0, 3, 1, 2)
        for (row, column), values in zip(CORNERS, pixels, strict=True):
            out[:, :, row::2, column::2] = values
        return out

    def _corner_taps(self) -> list[torch.Tensor]:
        """`corner_taps` of the weight, computed once for as long as the weight is the same and frozen."""
        weight = self.weight
        if not isinstance(weight, nn.Parameter) or (weight.requires_grad and torch.is_grad_enabled()):
            return corner_taps(weight)
        mark = (weight.data_ptr(), weight._version)  # changes in place raise the version
        if self._kept is None or self._kept[0] is not weight or self._kept[1] != mark:
            with torch.inference_mode(False), torch.no_grad():  # so that they may serve a later pass with gradients
                self._kept = (weight, mark, corner_taps(weight))
        return self._kept[2]


def corner_taps(weight: torch.Tensor) -> list[torch.Tensor]:
    """out x in x 3 x 3 -> the out x in x 2 x 2 taps of each of CORNERS."""
    first, second, third = weight.unbind(2)
    by_row = [torch.stack([first, second + third], dim=2), torch.stack([first + second, third], dim=2)]
    taps = []
    for rows in by_row:
        first, second, third = rows.unbind(3)
        taps.append(torch.stack([first, second + third], dim=3))
        taps.append(torch.stack([first + second, third], dim=3))
    return [corner.contiguous(memory_format=torch.channels_last) for corner in taps]

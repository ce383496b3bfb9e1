"""Strided 1x1 convolutions that are safe to train.

The gradient of a strided 1x1 convolution in channels_last writes past its memory in oneDNN where its input has fewer
than 8 channels (torch 2.15 on AMD processors; groups and larger kernels are sound).  Here every `stride`-th pixel is
taken first, and these are convolved: the same numbers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_SOUND_FROM_CHANNELS = 8


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution without padding; a Conv2d for everybody who reads its weights, stride or channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x in x H x W -> N x out x ceil(H / stride) x ceil(W / stride)."""
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight, self.bias, groups=self.groups)


def corrupts_memory(layer: nn.Module) -> bool:
    """Whether training this very layer in channels_last may write past its memory."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.groups == 1
        and layer.in_channels < _SOUND_FROM_CHANNELS
    )


def with_safe_strides(network: nn.Module) -> nn.Module:
    """The network, such layers of others' making (timm) replaced in place, with their weights."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and corrupts_memory(layer) and layer.padding == (0, 0):
                safe = PointwiseConv2d(layer.in_channels, layer.out_channels, 1, layer.bias is not None)
                safe.stride = layer.stride
                safe.load_state_dict(layer.state_dict())
                setattr(parent, name, safe.train(layer.training))
    return network

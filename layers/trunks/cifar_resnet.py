"""ResNets of 6n + 2 layers for small images: ResNet-8 to ResNet-110, and the fourfold ones (8x4, 32x4).

Source: He et al. 2016, arXiv 1512.03385, section 4.2, with 1x1 convolutions where a shortcut changes the shape.
"""

from __future__ import annotations

from layers.trunks.parts import scaled
from layers.trunks.resnet import ResNet


def cifar_resnet(
    in_channels: int,
    resolution_px: int,
    width: float,
    *,
    depth: int,
    widths: tuple[int, ...] = (16, 16, 32, 64),
    first_stride: int = 1,
) -> ResNet:
    """Three stages of (depth - 2) / 6 blocks.  widths: of the stem and the stages, at width 1."""
    stem, *stages = (scaled(channels, width) for channels in widths)
    return ResNet(in_channels, stem, stages, [(depth - 2) // 6] * len(stages), first_stride=first_stride)

"""Trunks of classifiers for small images, built by name: the published networks, one file a family, and timm's.

A trunk maps normalised float images N x C x H x W to N x `feature_dim`, the global average of its last map, which
`maps` gives (timm models may do more behind it).  Its `feature_paths` name the modules whose outputs methods read
(`layers.features`): stem, stage1, stage2, ... and stage1_preact, ..., the same before the activation.

Layers have the names of the well-known trainers (Tian et al. 2020, arXiv 1910.10699, and the networks that Ding et al.
2023, arXiv 2104.03164, added to them), so that their state dicts fit as they are but for the head.  Published strides
are kept at every resolution; where maps would vanish, convolutions give 1 px.  NAME_64 is the form that Ding et al.
use for images of 64 px (one halving more at the beginning), NAME_flat their VGGs, which halve five times and end in
all of the last map: 512 features at 32 px, 2048 at 64; NAME_imagenet has the strides for large images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn

TIMM_PREFIX = "timm:"
_SMALLEST_IMAGE_PX = 8


@dataclass(frozen=True)
class Declared:
    """A network: the function that builds it, in the module of the same name here, and its arguments.

    scales: whether `width` may be other than 1.  smallest_px: of its images; below, its maps vanish.
    """

    family: str
    arguments: Mapping[str, Any]
    scales: bool = True
    smallest_px: int = _SMALLEST_IMAGE_PX

    def build(self, in_channels: int, resolution_px: int, width: float) -> nn.Module:
        """The trunk with random weights; UserError where it cannot take images of this size."""
        module = import_module(f"{__name__}.{self.family}")
        trunk: nn.Module = getattr(module, self.family)(in_channels, resolution_px, width, **self.arguments)
        return trunk


_X4 = (32, 64, 128, 256)
_FOUR = (64, 128, 256, 512)
_NARROW = (8, 16, 32, 32, 512)
TRUNKS: dict[str, Declared] = {
    "resnet8": Declared("cifar_resnet", {"depth": 8}),
    "resnet14": Declared("cifar_resnet", {"depth": 14}),
    "resnet20": Declared("cifar_resnet", {"depth": 20}),
    "resnet32": Declared("cifar_resnet", {"depth": 32}),
    "resnet44": Declared("cifar_resnet", {"depth": 44}),
    "resnet56": Declared("cifar_resnet", {"depth": 56}),
    "resnet110": Declared("cifar_resnet", {"depth": 110}),
    "resnet8x4": Declared("cifar_resnet", {"depth": 8, "widths": _X4}),
    "resnet32x4": Declared("cifar_resnet", {"depth": 32, "widths": _X4}),
    "resnet20_64": Declared("cifar_resnet", {"depth": 20, "first_stride": 2}),
    "resnet56_64": Declared("cifar_resnet", {"depth": 56, "first_stride": 2}),
    "resnet8x4_64": Declared("cifar_resnet", {"depth": 8, "widths": _X4, "first_stride": 2}),
    "resnet18": Declared("resnet", {"blocks": (2, 2, 2, 2)}),
    "resnet34": Declared("resnet", {"blocks": (3, 4, 6, 3)}),
    "resnet50": Declared("resnet", {"blocks": (3, 4, 6, 3), "bottleneck": True}),
    "resnet18_64": Declared("resnet", {"blocks": (2, 2, 2, 2), "first_stride": 2}),
    "wrn_10_1": Declared("wide_resnet", {"depth": 10, "factor": 1}),
    "wrn_16_1": Declared("wide_resnet", {"depth": 16, "factor": 1}),
    "wrn_16_2": Declared("wide_resnet", {"depth": 16, "factor": 2}),
    "wrn_40_1": Declared("wide_resnet", {"depth": 40, "factor": 1}),
    "wrn_40_2": Declared("wide_resnet", {"depth": 40, "factor": 2}),
    "wrn_16_1_64": Declared("wide_resnet", {"depth": 16, "factor": 1, "halving_stem": True}),
    "wrn_40_1_64": Declared("wide_resnet", {"depth": 40, "factor": 1, "halving_stem": True}),
    "vgg8": Declared("vgg", {"layers": (1, 1, 1, 1, 1)}),
    "vgg8_quarter": Declared("vgg", {"layers": (1, 1, 1, 1, 1), "factor": 0.25}),
    "vgg8_narrow": Declared("vgg", {"layers": (1, 1, 1, 1, 1), "widths": _NARROW}),
    "vgg11": Declared("vgg", {"layers": (1, 1, 2, 2, 2)}),
    "vgg13": Declared("vgg", {"layers": (2, 2, 2, 2, 2)}),
    "vgg16": Declared("vgg", {"layers": (2, 2, 3, 3, 3)}),
    "vgg19": Declared("vgg", {"layers": (2, 2, 4, 4, 4)}),
    "vgg8_flat": Declared("flat_vgg", {"layers": (1, 1, 1, 1, 1)}, smallest_px=32),
    "vgg11_flat": Declared("flat_vgg", {"layers": (1, 1, 2, 2, 2)}, smallest_px=32),
    "vgg13_flat": Declared("flat_vgg", {"layers": (2, 2, 2, 2, 2)}, smallest_px=32),
    "vgg16_flat": Declared("flat_vgg", {"layers": (2, 2, 3, 3, 3)}, smallest_px=32),
    "vgg19_flat": Declared("flat_vgg", {"layers": (2, 2, 4, 4, 4)}, smallest_px=32),
    "mobilenetv2_full": Declared("full_mobilenet", {}, scales=False),
    "mobilenetv2": Declared("mobilenet", {"factor": 0.5}),
    "shufflev1": Declared("shufflenet_v1", {}, scales=False),
    "shufflev1_64": Declared("shufflenet_v1", {"stem": "4x4"}, scales=False),
    "shufflev2": Declared("shufflenet_v2", {}, scales=False),
    "shufflev2_3x3": Declared("shufflenet_v2", {"stem": "3x3"}, scales=False),
    "shufflev2_64": Declared("shufflenet_v2", {"stem": "4x4"}, scales=False),
    "densenet121": Declared("densenet", {"layers": (6, 12, 24, 16), "growth": 32}, scales=False),
    "densenet121_64": Declared("densenet", {"layers": (6, 12, 24, 16), "growth": 32, "halving_stem": True}, False),
    "efficientnetb0": Declared("efficientnet", {}, scales=False),
    "efficientnetb0_imagenet": Declared("imagenet_efficientnet", {}, scales=False, smallest_px=32),
    "mobilenetv2_imagenet": Declared("imagenet_mobilenet", {}, scales=False, smallest_px=32),
    "shufflev2_imagenet": Declared("imagenet_shufflenet", {}, scales=False, smallest_px=32),
}


def build_trunk(name: str, in_channels: int, resolution_px: int, width: float = 1.0) -> nn.Module:
    """A module float N x C x H x W -> N x feature_dim with the attribute `feature_dim`; weights are random.

    `width` multiplies the channel counts where a network scales; timm models have their width in their name.
    Raises UserError for an unknown name, a width or a resolution that the network cannot have.
    """
    if width <= 0:
        raise UserError(f"width {width:g} is not possible; give a factor above 0, e.g. 1.")
    if resolution_px < _SMALLEST_IMAGE_PX:
        raise UserError(f"images of {resolution_px} px are too small for the networks here; use 8 px or more.")
    if name.startswith(TIMM_PREFIX):
        from layers.trunks.timm_model import TimmTrunk

        return TimmTrunk(name.removeprefix(TIMM_PREFIX), in_channels, resolution_px, width)
    if name not in TRUNKS:
        raise UserError(f"network {name!r} is unknown; known are {', '.join(TRUNKS)} and timm:NAME.")
    if resolution_px < (smallest := TRUNKS[name].smallest_px):
        raise UserError(f"images of {resolution_px} px are too small for {name}; use {smallest} px or more.")
    if width != 1.0 and not TRUNKS[name].scales:
        raise UserError(f"{name} has one width; leave the width at 1 or take another network.")
    return TRUNKS[name].build(in_channels, resolution_px, width)

"""Feature backbones for small images, built by name: ResNet-8/20 (CIFAR form), VGG-8, and any timm model.

A backbone maps normalised float images N x C x H x W to N x `feature_dim`, the global average of its last map, which
`maps` gives (timm models may do more behind it).  Its `feature_paths` name the modules whose outputs methods read
(`layers.features`): stem and stage1, stage2, ... after their last ReLU, before any pooling that follows.

Strides by resolution (px), chosen so that the last map keeps 2 px or more:

    resnet8, resnet20   stages at 1, 1/2, 1/4 of the stem's map; the stem's stride is 1 up to 32 px, 2 at 64, 4 at 128
                        (last map 4x4 at 16, 8x8 from 32 to 128)
    vgg8                pools after the first three blocks, from 64 px on after four (2x2 at 16, 4x4 at 32 and 64)
    timm:NAME           made for 224 px and a total stride of 32; the earliest strides are set to 1 until the last map
                        is an eighth of the image wide (2x2 at 16, 4x4 at 32).  Where a model's strides sit on
                        parallel paths (ResNets) that is not possible: it is taken as it is, or refused below 2 px

Sources: He et al. 2016, arXiv 1512.03385, section 4.2 (16-32-64); VGG-8 as in Tian et al. 2020, arXiv 1910.10699.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from layers.pointwise import PointwiseConv2d, with_safe_strides
from runtime.errors import UserError

TIMM_PREFIX = "timm:"
_RESNET_WIDTHS = (16, 32, 64)
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_SMALLEST_MAP_PX = 2
_TIMM_TOTAL_STRIDE = 8


def build_backbone(name: str, in_channels: int, resolution_px: int, width: float = 1.0) -> nn.Module:
    """A module float N x C x H x W -> N x feature_dim with the attribute `feature_dim`; weights are random.

    `width` multiplies the channel counts of resnet8, resnet20 and vgg8; timm models have their width in their name.
    Raises UserError for an unknown name, a width or a resolution that the network cannot have.
    """
    if width <= 0:
        raise UserError(f"width {width:g} is not possible; give a factor above 0, e.g. 1.")
    if resolution_px < 8:
        raise UserError(f"images of {resolution_px} px are too small for the networks here; use 8 px or more.")
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), in_channels, resolution_px, width)
    if name == "resnet8":
        return SmallResNet(1, in_channels, resolution_px, width)
    if name == "resnet20":
        return SmallResNet(3, in_channels, resolution_px, width)
    if name == "vgg8":
        return SmallVgg(in_channels, resolution_px, width)
    raise UserError(f"backbone {name!r} is unknown; known are resnet8, resnet20, vgg8 and timm:NAME.")


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 4, at least 4."""
    return max(4, round(channels * width / 4) * 4)


def _named(paths: Sequence[str]) -> dict[str, str]:
    """stem, stage1, stage2, ... -> module path."""
    return {f"stage{index}" if index else "stem": path for index, path in enumerate(paths)}


def timm_feature_paths(model: Any) -> dict[str, str]:
    """The same for a timm model, by what timm knows of it; {} where that is nothing."""
    known = getattr(model, "feature_info", [])
    paths = [str(entry["module"]) for entry in (known if isinstance(known, list) else known.info) if "module" in entry]
    modules = dict(model.named_modules())
    stems = [path for path in ("stem", "act1", "bn1") if path in modules]
    if paths and stems and paths[0] not in stems:
        paths = [stems[0], *paths]
    return _named([path for path in paths if path in modules])


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (1x1 where the shape changes)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                PointwiseConv2d(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class SmallResNet(nn.Module):
    """ResNet of 6n + 2 layers, three stages of n blocks, 16-32-64 channels times `width`."""

    def __init__(self, blocks: int, in_channels: int, resolution_px: int, width: float) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in _RESNET_WIDTHS]
        stem_stride = max(1, resolution_px // 32)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages, before = [], widths[0]
        for index, channels in enumerate(widths):
            strides = [2 if index else 1] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(ResidualBlock(before, channels, stride))
                before = channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.feature_paths = _named(["stem", *(f"stages.{index}" for index in range(len(stages)))])
        self.feature_dim = before
        _initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(self.stem(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).mean(dim=(2, 3))


class SmallVgg(nn.Module):
    """Five blocks of convolution, batch norm, ReLU: 64-128-256-512-512 channels times `width`."""

    def __init__(self, in_channels: int, resolution_px: int, width: float) -> None:
        super().__init__()
        pools = 4 if resolution_px >= 64 else 3
        layers: list[nn.Module] = []
        ends = []  # the places of the blocks' ReLUs
        before, map_px = in_channels, resolution_px
        for index, channels in enumerate(_VGG_WIDTHS):
            channels = scaled(channels, width)
            layers += [
                nn.Conv2d(before, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            ends.append(len(layers) - 1)
            if index < pools and map_px // 2 >= _SMALLEST_MAP_PX:
                layers.append(nn.MaxPool2d(2))
                map_px //= 2
            before = channels
        self.blocks = nn.Sequential(*layers)
        self.feature_paths = _named([f"blocks.{place}" for place in ends])
        self.feature_dim = before
        _initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).mean(dim=(2, 3))


class TimmBackbone(nn.Module):
    """A timm model without its head and without pretrained weights, its early strides taken out for small images."""

    def __init__(self, name: str, in_channels: int, resolution_px: int, width: float) -> None:
        super().__init__()
        if width != 1.0:
            raise UserError(
                f"{TIMM_PREFIX}{name} has its width in its name; leave the width at 1 or take another model."
            )
        import timm  # slow to import, and only these networks need it

        if not timm.is_model(name):
            raise UserError(f"timm knows no model {name!r}; `timm.list_models()` prints the names it has.")
        arguments: dict[str, Any] = {
            "pretrained": False,
            "num_classes": 0,
            "in_chans": in_channels,
            "global_pool": "avg",
        }
        self.model = with_safe_strides(timm.create_model(name, **arguments))
        map_px = _adapt_strides(self.model, in_channels, resolution_px, f"{TIMM_PREFIX}{name}")
        if map_px < _SMALLEST_MAP_PX:
            raise UserError(
                f"{TIMM_PREFIX}{name} shrinks {resolution_px} px images to {map_px} px and its strides cannot be "
                "taken out; use one of the MobileNet or EfficientNet family."
            )
        known = timm_feature_paths(self.model)
        self.feature_paths = {key: f"model.{path}" for key, path in known.items()}
        was_training = self.model.training
        with torch.no_grad():
            self.model.eval()
            self.feature_dim = int(self.model(torch.zeros(1, in_channels, resolution_px, resolution_px)).shape[1])
        self.model.train(was_training)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        return model.forward_features(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def _last_map_px(model: Any, in_channels: int, resolution_px: int, name: str) -> int:
    """Width of the last feature map, by running one black image in eval mode."""
    was_training = model.training
    try:
        with torch.no_grad():
            found = model.eval().forward_features(torch.zeros(1, in_channels, resolution_px, resolution_px))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{name} cannot take images of {resolution_px} px ({str(error).splitlines()[0]}); use another model."
        ) from error
    finally:
        model.train(was_training)
    if found.ndim != 4:
        raise UserError(f"{name} is not a convolutional network with a feature map; use another model.")
    return int(min(found.shape[2:]))


def _adapt_strides(model: Any, in_channels: int, resolution_px: int, name: str) -> int:
    """Set the earliest stride-2 convolutions to stride 1 until the last map is wide enough; returns its width.

    Only for the family with one path through its strides (`conv_stem` + `blocks`): elsewhere a shortcut would no
    longer match its block.
    """
    map_px = _last_map_px(model, in_channels, resolution_px, name)
    if not (hasattr(model, "conv_stem") and hasattr(model, "blocks")):
        return map_px
    strided = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    for layer in strided:
        if map_px * _TIMM_TOTAL_STRIDE >= resolution_px:
            break
        layer.stride = (1, 1)
        map_px = _last_map_px(model, in_channels, resolution_px, name)
    return map_px

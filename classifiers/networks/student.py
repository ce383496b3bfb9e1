"""A student = fixed normalisation + backbone + head.

Normalisation: uint8 0..255 -> (x / 255 - 0.5) / 0.5, inside the network, always the same.  The original code takes
channel means and standard deviations over real + fake images, so that the constants change with the fakes, differ
between teacher and student, and a network means nothing without the files that it was trained on; batch norm makes
up for any fixed shift and scale.

The head follows from the labels (`layers.heads`): linear for classes, regression for continuous ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from classifiers.networks import STUDENTS
from classifiers.networks.settings import TimmSettings
from interfaces import LabelSpace
from layers.features import feature_paths
from layers.heads import HEADS
from layers.trunks import TIMM_PREFIX, TRUNKS, build_trunk
from runtime.registry import Choice

for _name in TRUNKS:
    STUDENTS.register(_name, settings=STUDENTS.settings(_name))(partial(build_trunk, _name))


@STUDENTS.register("mobilenetv3", settings=TimmSettings)
def mobilenetv3(in_channels: int, resolution_px: int, width: float) -> nn.Module:
    """timm's MobileNetV3-small at half width, its early strides taken out; `width` must stay 1."""
    return build_trunk("timm:mobilenetv3_small_050", in_channels, resolution_px, width)


@STUDENTS.register("timm:NAME", settings=TimmSettings)
def timm_network(name: str, in_channels: int, resolution_px: int, width: float) -> nn.Module:
    """Any timm model that fits."""
    return build_trunk(TIMM_PREFIX + name, in_channels, resolution_px, width)


class StudentNetwork(nn.Module):
    """uint8 N x C x H x W (or the same values as floats) -> logits N x classes, or encoded labels N x d."""

    def __init__(self, backbone: nn.Module, label_space: LabelSpace) -> None:
        super().__init__()
        self.backbone: Any = backbone
        name = "linear" if label_space.kind == "classes" else "regression"
        self.head: nn.Module = HEADS.get(name)(int(backbone.feature_dim), label_space.width)  # type: ignore[arg-type]
        self.feature_paths = classifier_features(backbone)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() / 127.5 - 1.0
        # A head that a method has put here may read the last map: the pooled vector has lost the places.
        return self.head(self.backbone.maps(pixels) if self.reads_map else self.backbone(pixels))

    @property
    def reads_map(self) -> bool:
        """Whether the head reads the trunk's last map, not its pooled vector."""
        return bool(getattr(self.head, "reads_map", False))

    @property
    def head_card(self) -> dict[str, Any] | None:
        """Of a head that a method has put in place of the network's own; see `layers.heads`."""
        card: dict[str, Any] | None = getattr(self.head, "card", None)
        return card


def classifier_features(backbone: nn.Module) -> dict[str, str]:
    """Name -> module path of what a method can read of a network of `backbone` and `head`."""
    trunk = {name: f"backbone.{path}" for name, path in feature_paths(backbone).items()}
    return {**trunk, "pooled": "backbone", "logits": "head"}


def build_student(
    network: str | Choice, in_channels: int, resolution_px: int, label_space: LabelSpace, **settings: Any
) -> StudentNetwork:
    """A student with random weights.  `network`: a choice of STUDENTS, or the name of an entry and its settings.

    UserError for a name, a setting or a resolution that is not possible.
    """
    choice = network if isinstance(network, Choice) else STUDENTS.choose(network, settings)
    return StudentNetwork(STUDENTS.build(choice, in_channels=in_channels, resolution_px=resolution_px), label_space)

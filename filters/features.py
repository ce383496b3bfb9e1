"""phi: a small convolutional network whose features the density ratio works on.

It is trained on real images to tell their labels (cross entropy for classes, mean squared error on labels in [0, 1]
for continuous ones), then frozen.  Its body is plain, so that it is no twin of the classifiers that are trained later.
The one normalisation is pixel / 127.5 - 1, and it is inside: training and use cannot differ.
(cGAN-KD trains phi on mean/std-normalised pixels and feeds it [-1, 1] ones.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from interfaces import LabelSpace

MAP_PX = 4  # the convolutions halve the image until its side is at most this
WIDEST_FEATURE = 512


def default_feature_dim(channels: int, resolution_px: int) -> int:
    """d: as many features as pixel values, as published, but no more than 512."""
    return min(channels * resolution_px * resolution_px, WIDEST_FEATURE)


class FeatureNetwork(nn.Module):
    """uint8 N x C x H x W -> features, N x d, and label outputs, N x `outputs`.

    3x3 convolution to `width` channels, then pairs of 3x3 convolutions (the first halves the side and doubles the
    channels, up to 8 x width) down to a 4 x 4 map, then one Linear to d features without activation, as in the second
    version of cGAN-KD.  The head is BatchNorm, ReLU, Dropout 0.5, Linear.
    """

    def __init__(
        self, channels: int, resolution_px: int, feature_dim: int, width: int, outputs: int, label_kind: str
    ) -> None:
        super().__init__()
        self.label_kind = label_kind
        layers: list[nn.Module] = [*_convolution(channels, width, 1)]
        side, current = resolution_px, width
        while side > MAP_PX:
            wider = min(2 * current, 8 * width)
            layers += [*_convolution(current, wider, 2), *_convolution(wider, wider, 1)]
            side, current = -(-side // 2), wider
        self.body = nn.Sequential(*layers)
        self.project = nn.Linear(current * side * side, feature_dim)
        self.head = nn.Sequential(
            nn.BatchNorm1d(feature_dim), nn.ReLU(), nn.Dropout(0.5), nn.Linear(feature_dim, outputs)
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """phi(x): float32 N x d."""
        scaled = images.to(dtype=torch.float32).mul(1.0 / 127.5).sub(1.0)
        return self.project(self.body(scaled.contiguous(memory_format=torch.channels_last)).flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits, or labels in [0, 1]: N x `outputs`."""
        return self.head(self.features(images))

    def agreement(self, features: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """How well the head's output goes with the asked label: N, at most 0.

        Classes: log p(y | x), no less than -8.  Continuous labels: minus the Euclidean distance in [0, 1]^d.
        """
        outputs = self.head(features)
        if self.label_kind == "classes":
            return torch.log_softmax(outputs, dim=1).gather(1, encoded[:, None]).squeeze(1).clamp_min(-8.0)
        return -(outputs - encoded).square().sum(dim=1).sqrt()


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def build_feature_network(arguments: dict[str, Any]) -> FeatureNetwork:
    """The network of a card's `extractor` entry."""
    return FeatureNetwork(**arguments).to(memory_format=torch.channels_last)


def label_loss(outputs: torch.Tensor, encoded: torch.Tensor, label_space: LabelSpace) -> torch.Tensor:
    """Cross entropy of N x C logits and int64 N, or mean squared error of N x d outputs and labels in [0, 1]."""
    if label_space.kind == "classes":
        return nn.functional.cross_entropy(outputs, encoded)
    return nn.functional.mse_loss(outputs, encoded)


class Features:
    """The frozen extractor: uint8 N x C x H x W -> float32 N x d on the network's device."""

    def __init__(self, network: FeatureNetwork, device: torch.device, card: dict[str, Any]) -> None:
        self.card, self.device = card, device
        self.network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.features(images.to(self.device))

    @torch.inference_mode()
    def with_label(self, images: torch.Tensor, encoded: torch.Tensor, agreement: bool) -> torch.Tensor:
        """What the density ratio sees of images and their labels: phi, N x d, and the agreement as one more column."""
        features = self(images)
        if not agreement:
            return features
        return torch.cat([features, self.network.agreement(features, encoded.to(self.device))[:, None]], dim=1)

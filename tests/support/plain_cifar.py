"""CIFAR ResNets as most trainers write them, in their names of layers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class PlainBlock(nn.Module):
    """A CIFAR ResNet's block in the names that most trainers use."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Sequential()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class PlainResNet(nn.Module):
    """ResNet-8 (one block a stage) or ResNet-20 (three)."""

    def __init__(self, blocks: int = 1, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width]
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            rest = [PlainBlock(after, after, 1) for _ in range(blocks - 1)]
            first = PlainBlock(before, after, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(h.mean(dim=(2, 3)))

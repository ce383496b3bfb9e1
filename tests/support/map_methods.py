"""Methods on features that are given as tensors: networks that give them by name, and one step's loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from interfaces.method import Batch, Method, Views
from layers.features import Insides
from training.distilling import MethodSpace
from training.methods import METHODS

Features = Mapping[str, torch.Tensor]


class Given(nn.Module):
    """A network that gives these features by name."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.given = dict(features)
        self.parts = nn.ModuleDict({name: nn.Identity() for name in features})
        self.feature_paths = {name: f"parts.{name}" for name in features}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for name, part in self.parts.items():
            part(self.given[name])
        return images.float()


def method_on(name: str, student: Features, teacher: Features, **settings: Any) -> Method:
    """The method as built for networks with these features."""
    insides = []
    for features, owner in ((student, "student"), (teacher, "teacher")):
        insides.append(Insides(Given(features), (torch.zeros(2, 1, 4, 4, dtype=torch.uint8),), owner))
    method: Method = METHODS.build(METHODS.choose(name, settings), MethodSpace(name, *insides))
    return method


def run(
    method: Method, student: Features, teacher: Features, stage: str = "student", weights: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The terms in a stage, with the gradients of the loss in their places."""
    terms = method(Views(features=student), Views(features=teacher), Batch(torch.empty(0), weights, stage=stage))
    terms["loss"].backward()
    return {name: value.detach() for name, value in terms.items()}

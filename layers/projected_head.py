"""A head that reads the last map as another network's: a projector, then that network's frozen classifier.

Source: SimKD (Chen et al. 2022, arXiv 2203.14001, section 3.2).  The size of the maps is kept here: a finished student
needs no teacher.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from layers.heads import HEADS

NAME = "projected"


def projector(student_channels: int, teacher_channels: int, factor: int) -> nn.Sequential:
    """1 x 1, 3 x 3 and 1 x 1 convolutions without bias, each with batch norm and ReLU; inside C_t / factor channels."""
    inner = max(1, teacher_channels // factor)
    layers: list[nn.Module] = []
    for before, after, size in (
        (student_channels, inner, 1), (inner, inner, 3), (inner, teacher_channels, 1),
    ):  # fmt: skip
        layers += [nn.Conv2d(before, after, size, padding=size // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


@HEADS.register(NAME)
class ProjectedHead(nn.Module):
    """Projector and the teacher's frozen classifier: last map N x C_s x H x W -> outputs.

    size: the map is averaged to it where it is larger.  classifier: an entry of HEADS that reads pooled vectors;
    hidden: units of its hidden layers, 0 where it has none.
    """

    reads_map = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        factor: int,
        size: int,
        classifier: str,
        outputs: int,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.card = {
            "name": NAME,
            "arguments": {
                "student_channels": student_channels,
                "teacher_channels": teacher_channels,
                "factor": factor,
                "size": size,
                "classifier": classifier,
                "outputs": outputs,
                "hidden": hidden,
            },
        }
        self.size = size
        self.projector = projector(student_channels, teacher_channels, factor)
        self.classifier = (
            HEADS.get(classifier)(teacher_channels, outputs, *([hidden] if hidden else [])).requires_grad_(False).eval()
        )

    def train(self, mode: bool = True) -> ProjectedHead:
        """The classifier stays in evaluation mode: it is as the teacher left it."""
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.shape[2] > self.size:
            maps = functional.adaptive_avg_pool2d(maps, self.size)
        return self.classifier(self.projector(maps).mean(dim=(2, 3)))  # type: ignore[no-any-return]

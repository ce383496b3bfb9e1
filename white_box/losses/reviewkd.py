"""ReviewKD: from the deepest level to the largest map, the student's levels are fused and compared with the teacher's.

Source: Chen et al. 2021, arXiv 2104.09044, equations 6 to 9; attention based fusion (ABF) and the hierarchical context
loss (HCL).  The teacher's maps are taken before their last ReLU where the network names them (stage1_preact).  Shapes
come from a pass, not from a table of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch, Method, Views
from layers.features import Insides, feature_paths
from layers.label_losses import weighted_mean
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pairs import Names, Shape, pairs_of
from white_box.losses.stages import PREACT, in_float32, paired_stages
from white_box.settings_vectors import ReviewSettings

POOLS = (4, 2, 1)


class Fusion(nn.Module):
    """ABF: a level of the student joined with what the deeper levels left."""

    def __init__(self, student_channels: int, middle: int, teacher_channels: int, joins: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(student_channels, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.conv2 = nn.Sequential(
            nn.Conv2d(middle, teacher_channels, 3, padding=1, bias=False), nn.BatchNorm2d(teacher_channels)
        )
        self.att_conv = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if joins else None
        for part in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(next(part.parameters()), a=1)

    def forward(
        self, x: torch.Tensor, deeper: torch.Tensor | None, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """N x C_s x h x w and N x m x h' x w' -> N x C_t x size, and N x m x size for the next level."""
        x = self.conv1(x)
        if self.att_conv is not None and deeper is not None:
            deeper = functional.interpolate(deeper, x.shape[2:], mode="nearest")
            first, second = self.att_conv(torch.cat([x, deeper], dim=1)).chunk(2, dim=1)
            x = x * first + deeper * second
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="nearest")
        return self.conv2(x), x


@in_float32
def context_rows(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """HCL of equally shaped maps N x C x H x W -> N.

    Mean squared differences, of the maps and of them averaged to 4 x 4, 2 x 2 and 1 x 1 where these are smaller, with
    weights 1, 1/2, 1/4, ... in the order of those used, over the sum of the weights.
    """
    found, total, share = (student - teacher).square().flatten(1).mean(dim=1), 1.0, 1.0
    for size in POOLS:
        if size < student.shape[2]:
            share /= 2
            apart = functional.adaptive_avg_pool2d(student, size) - functional.adaptive_avg_pool2d(teacher, size)
            found, total = found + share * apart.square().flatten(1).mean(dim=1), total + share
    return found / total


@METHODS.register("reviewkd", settings=ReviewSettings)
class KnowledgeReview(Method):
    """L = weight x min(1, epoch / 20) x sum over the levels of HCL."""

    requires = frozenset({"features"})

    def __init__(
        self, space: MethodSpace, weight: float, pairs: Sequence[str], middle_channels: int, warmup_epochs: float
    ) -> None:
        """UserError: no insides, unknown names, no maps of equal size where the numbers of stages differ."""
        super().__init__()
        student, teacher = space.insides()
        named = pairs_of(pairs) or _levels(space)
        self.name, self.weight, self.warmup_epochs = space.name, weight, warmup_epochs
        self.teacher_features, self.student_features = (tuple(names) for names in zip(*named, strict=True))
        ours = [_map_shape(student, name) for name in self.student_features]
        others = [_map_shape(teacher, name) for name in self.teacher_features]
        middle = min(middle_channels, ours[-1][0])
        self.abfs = nn.ModuleList(  # from deep to shallow
            Fusion(own[0], middle, other[0], joins=place > 0)
            for place, (own, other) in enumerate(zip(reversed(ours), reversed(others), strict=True))
        )

    def fused(self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The student's levels, shallow to deep, as maps of the teacher's shapes."""
        outputs: list[torch.Tensor] = []
        deeper: torch.Tensor | None = None
        for abf, ours, other in zip(self.abfs, reversed(student), reversed(teacher), strict=True):
            output, deeper = abf(ours, deeper, (other.shape[2], other.shape[3]))
            outputs.insert(0, output)
        return outputs

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        ours = [_as_map(student.features[name]) for name in self.student_features]
        others = [_as_map(teacher.features[name].detach()) for name in self.teacher_features]
        # The warm-up begins with the first step's share, not with 0: a loss of 0 would train nothing.
        share = min(1.0, (batch.epoch + 1.0 / batch.steps) / self.warmup_epochs) if self.warmup_epochs else 1.0
        terms = {}
        names = zip(self.teacher_features, self.student_features, strict=True)
        for (theirs, own), output, other in zip(names, self.fused(ours, others), others, strict=True):
            value = weighted_mean(context_rows(output, other), batch.weights)
            terms[f"{self.name}[{theirs} -> {own}]"] = self.weight * share * value
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _levels(space: MethodSpace) -> Names:
    """The paired stages, the largest first, the teacher's before the ReLU; then the pooled vectors."""
    student, teacher = space.insides()
    pairs = sorted(paired_stages(space), key=lambda pair: -student.shape(pair[1])[1])
    before = feature_paths(teacher.network)
    levels = [(theirs + PREACT if theirs + PREACT in before else theirs, ours) for theirs, ours in pairs]
    if "pooled" in before and "pooled" in feature_paths(student.network):
        levels.append(("pooled", "pooled"))
    return tuple(levels)


def _map_shape(insides: Insides, name: str) -> Shape:
    """(C, H, W), of a vector (d, 1, 1); UserError where it is neither."""
    if len(insides.shapes.get(name, ())) == 1:
        return (*insides.shape(name, dims=1), 1, 1)
    return insides.shape(name)


def _as_map(feature: torch.Tensor) -> torch.Tensor:
    return feature[:, :, None, None] if feature.ndim == 2 else feature

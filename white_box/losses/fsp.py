"""FSP: how one map flows into the next, learnt before the labels.

Source: Yim et al. 2017, "A Gift from Knowledge Distillation", equations 1 and 2: G_k[a, b] = mean over the places of
f_(k+1)[a] f_k[b], the larger map averaged to the smaller.  The loss prepares the student in a stage of its own and is
not used afterwards.  G is a batched product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interfaces.method import Batch, Stage, Views
from layers.features import feature_paths
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pairs import Names, smaller_size
from white_box.losses.stages import Maps, NeighbouringMaps, in_float32, initialisation
from white_box.settings_maps import FlowSettings


@in_float32
def flow(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """N x C x H x W and N x D x h x w -> G, N x D x C."""
    earlier, later = (maps.flatten(2) for maps in smaller_size(earlier, later))
    return torch.bmm(later, earlier.mT) / earlier.shape[2]


def flow_differences(student: Maps, teacher: Maps) -> list[torch.Tensor]:
    """Maps in order, equally wide level by level -> for each two neighbours N values, mean (G_S - G_T)^2."""
    ours, other = ([flow(*maps[at : at + 2]) for at in range(len(maps) - 1)] for maps in (student, teacher))
    return [(s - t).square().mean(dim=(1, 2)) for s, t in zip(ours, other, strict=True)]


@METHODS.register("fsp", settings=FlowSettings)
class FlowOfSolution(NeighbouringMaps):
    """L = weight x sum over neighbouring maps of mean (G_S - G_T)^2, in the first stage; then nothing."""

    def __init__(self, space: MethodSpace, weight: float, pairs: Sequence[str], stage_share: float) -> None:
        self._stages = initialisation(stage_share)
        super().__init__(space, weight, pairs)

    def default_pairs(self, space: MethodSpace) -> Names:
        """The stem as well, where both have one."""
        stems = ("stem", "stem") if all("stem" in feature_paths(one.network) for one in space.insides()) else ()
        return (*([stems] if stems else []), *super().default_pairs(space))

    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    def losses_of(self, student: Maps, teacher: Maps) -> list[torch.Tensor]:
        return flow_differences(student, teacher)

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        return super().forward(student, teacher, batch) if batch.stage == self._stages[0].name else {}

"""FT: the student's translated factor is the teacher's paraphrased one.

Source: Kim et al. 2018, arXiv 1802.04977.  First a paraphraser learns to code the teacher's map in fewer channels and
to give it back (equation 2); then the student with a translator learns the code's normalised factor (equation 4,
p = 1).  As in RepDistiller the factor is the attention of the code, not the flattened code itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from interfaces.method import Batch, Stage, Views
from layers.label_losses import weighted_mean
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.feature_l2 import squared_difference
from white_box.losses.pairs import Names, smaller_size
from white_box.losses.stages import PairedStages, attention, last_stages
from white_box.settings_maps import FactorSettings

PARAPHRASER = "paraphraser"
SLOPE = 0.1  # of the leaky ReLUs


def factor_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Codes N x C x H x W -> N: mean over the places of |F_S - F_T|; the larger is averaged to the smaller first."""
    ours, other = (attention(code) for code in smaller_size(student, teacher))
    return (ours - other).abs().mean(dim=1)


class Factors(nn.Module):
    """The paraphraser, the translator and the loss of one pair."""

    def __init__(self, student_channels: int, teacher_channels: int, share: float) -> None:
        super().__init__()
        code = max(1, int(teacher_channels * share))
        self.encoder = _three_layers(nn.Conv2d, (teacher_channels, teacher_channels, code, code))
        self.decoder = _three_layers(nn.ConvTranspose2d, (code, code, teacher_channels, teacher_channels))
        self.translator = _three_layers(nn.Conv2d, (student_channels, student_channels, code, code), norms=True)

    def reconstruction(self, teacher: torch.Tensor) -> torch.Tensor:
        """N x C_t x H x W -> N: the mean squared error of the paraphraser."""
        return squared_difference(self.decoder(self.encoder(teacher)), teacher)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            code = self.encoder(teacher)
        return factor_difference(self.translator(student), code)


def _three_layers(kind: type[nn.Module], channels: Sequence[int], norms: bool = False) -> nn.Sequential:
    """Three 3 x 3 layers that keep the size, each with a leaky ReLU, and a batch norm before it where asked for."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [kind(before, after, 3, 1, 1), *([nn.BatchNorm2d(after)] if norms else []), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


@METHODS.register("ft", settings=FactorSettings)
class FactorTransfer(PairedStages):
    """The paraphraser's MSE in the first stage; then L = weight x sum over pairs of mean |F_S - F_T|."""

    takes_any_size = True

    def __init__(
        self,
        space: MethodSpace,
        weight: float,
        pairs: Sequence[str],
        factor_share: float,
        stage_share: float,
        stage_lr_factor: float,
    ) -> None:
        self._factor_share = factor_share
        self._first = Stage(PARAPHRASER, stage_share, trains_student=False, lr_factor=stage_lr_factor)
        super().__init__(space, weight, pairs)

    def default_pairs(self, space: MethodSpace) -> Names:
        return last_stages(space)

    def loss(self, student_channels: int, teacher_channels: int) -> nn.Module:
        return Factors(student_channels, teacher_channels, self._factor_share)

    def stages(self) -> tuple[Stage, ...]:
        return self._first, Stage()

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.stage != PARAPHRASER:
            return super().forward(student, teacher, batch)
        terms = {}
        for name, factors in zip(self.teacher_features, self.losses, strict=True):
            rows = factors.reconstruction(teacher.features[name].detach())  # type: ignore[operator]
            terms[f"reconstruction[{name}]"] = weighted_mean(rows, batch.weights)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

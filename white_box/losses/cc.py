"""CC: what the images of a batch have in common with one another, by the teacher's and by the student's vectors.

Source: Peng et al. 2019, arXiv 1904.01802: kernel matrices of the batch, K(a, b) = sum over p = 0..2 of
exp(-2 g) (2 g)^p / p! (a . b)^p on unit vectors with g = 0.4, and their mean squared difference (equations 5 and 9).
The teacher's embedding is a fixed random projection: trained, it could agree with the student on nothing.

RepDistiller computes something else under this name (`form` neighbours): d = |e_S - e_T| with both embeddings trained,
mean over i of d_i . d_(i+1).  It depends on the order of the batch, and e_S = e_T = 0 is a perfect minimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch
from layers.label_losses import weighted_mean
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.stages import in_float32
from white_box.losses.vectors import PairedVectors
from white_box.settings_maps import CorrelationForm, CorrelationSettings

ORDER, GAMMA = 2, 0.4
WEIGHTS: dict[str, float] = {"kernels": 100.0, "neighbours": 0.02}


@in_float32
def kernel_matrix(vectors: torch.Tensor) -> torch.Tensor:
    """B x d -> B x B: the Gaussian kernel of unit vectors, its exponential cut off behind the square."""
    unit = functional.normalize(vectors, dim=1)
    cosines = unit @ unit.T
    powers = [(2 * GAMMA * cosines).pow(p) / math.factorial(p) for p in range(ORDER + 1)]
    return math.exp(-2 * GAMMA) * torch.stack(powers).sum(dim=0)


def kernel_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """B x d_s and B x d_t -> B x B: (K_S - K_T)^2."""
    return (kernel_matrix(student) - kernel_matrix(teacher)).square()


@in_float32
def neighbour_products(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """B x d each -> B - 1: sum over the numbers of d_i d_(i+1), d = |s - t|."""
    apart = (student - teacher).abs()
    return (apart[:-1] * apart[1:]).sum(dim=1)


@METHODS.register("cc", settings=CorrelationSettings)
class CorrelationCongruence(PairedVectors):
    """L = weight x mean (K_S - K_T)^2; entry (i, j) counts as its rows' weights multiplied."""

    whole_batch = True  # no mean over rows

    def __init__(
        self,
        space: MethodSpace,
        form: CorrelationForm,
        weight: float | None,
        pairs: Sequence[str],
        embedding_dim: int,
    ) -> None:
        super().__init__(space, pairs)
        student_width, teacher_width = self.widths
        self.form, self.weight = form, WEIGHTS[form] if weight is None else weight
        self.embed_student = nn.Linear(student_width, embedding_dim)
        self.embed_other = nn.Linear(teacher_width, embedding_dim)
        if form == "kernels":  # buffers of the same names
            for name, parameter in list(self.embed_other.named_parameters()):
                delattr(self.embed_other, name)
                self.embed_other.register_buffer(name, parameter.detach())

    def terms(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        s, t = self.embed_student(student), self.embed_other(teacher)
        if self.form == "kernels":
            value = weighted_mean(kernel_difference(s, t), batch.weights)
        else:
            weights = None if batch.weights is None else batch.weights[:-1] * batch.weights[1:]
            value = weighted_mean(neighbour_products(s, t), weights)
        return {"loss": self.weight * value}

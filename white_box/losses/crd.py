"""CRD: each image's vector must be told, in the other network's bank, from those of other classes.

Source: Tian et al. 2020, arXiv 1910.10699, equations 9 to 19.  With unit embeddings e of both networks, banks of the
embeddings of all n training images, and K negatives for each image: P = exp(bank . e / tau) / Z, and
L = -(1/B) sum over the rows of log(P+ / (P+ + K/n + eps)) + sum of log((K/n) / (P- + K/n + eps)), for the student's
embedding in the teacher's bank and the other way round.  Then each bank takes unit(m old + (1 - m) new).

In the original each image has negatives of its own, gathered as B x K vectors (0.5 GiB a bank by default), and Z is
for ever that of the first, untrained batch (`normaliser` first).  Here one order of the training images is drawn each
step, and the first K of other classes in it are an image's negatives: without replacement and equally likely as
before, and one matrix product.  Where other classes have fewer than K images, all of them are taken and weighed up to
K.  Of equal indexes in a batch the last one enters the bank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from interfaces.method import Batch
from layers.label_losses import weighted_mean
from runtime.errors import UserError
from runtime.seeds import torch_generator
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.vectors import PairedVectors
from white_box.settings_vectors import ContrastSettings, Normaliser

EPSILON = 1e-7
_Z_SHARE = 0.01  # of a batch in the running Z
_ENTRIES = 2**22  # of B x columns scores that are held at once
_MOST_BYTES = 2**33  # of both banks


def contrast_rows(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    columns: torch.Tensor,
    counts: torch.Tensor,
    z: torch.Tensor,
    noise: float,
    temperature: float,
) -> torch.Tensor:
    """B terms of the loss.  noise: K / n.

    anchors, positives: B x d, of one network and of the other's bank; columns: Q x d of that bank; counts: B x Q, how
    often a column is a negative of the row; z: scalar.
    """
    near = ((anchors * positives).sum(dim=1) / temperature).exp() / z
    far = (anchors @ columns.T / temperature).exp() / z
    hit = (near / (near + noise + EPSILON)).log()
    miss = (counts * (noise / (far + noise + EPSILON)).log()).sum(dim=1)
    return -(hit + miss)


@torch.no_grad()
def partition(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    columns: torch.Tensor,
    counts: torch.Tensor,
    images: int,
    temperature: float,
) -> torch.Tensor:
    """Z of a batch: n times the mean of exp(bank . e / tau) over the positive and the negatives of each row."""
    total = ((anchors * positives).sum(dim=1) / temperature).exp().sum()
    for rows, times in zip(anchors.split(_group(columns)), counts.split(_group(columns)), strict=True):
        total = total + ((rows @ columns.T / temperature).exp() * times).sum()
    return images * total / (len(anchors) + counts.sum())


def negatives_of(
    classes: torch.Tensor, own: torch.Tensor, order: torch.Tensor, negatives: int, most_of_a_class: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(columns Q, counts B x Q): the first K of each row's other classes in the order.

    classes: n of the training images; own: B; order: a permutation of n, of which the first Q = K + most_of_a_class
    hold them all.  Rows with fewer than K have them weighed up to K.
    """
    columns = order[: negatives + most_of_a_class]
    other = classes[columns][None] != own[:, None]
    chosen = (other & (other.cumsum(dim=1, dtype=torch.int32) <= negatives)).float()
    return columns, chosen * (negatives / chosen.sum(dim=1, keepdim=True).clamp_min(1.0))


@torch.no_grad()
def renew(bank: torch.Tensor, index: torch.Tensor, new: torch.Tensor, momentum: float) -> None:
    """bank[index] <- unit(m old + (1 - m) new), in place; of equal indexes the last row counts."""
    rows = torch.arange(len(index), device=index.device)
    last = torch.where(index[:, None] == index[None], rows[None], -1).amax(dim=1)  # equal rows write equal values
    bank[index] = functional.normalize(momentum * bank[index] + (1.0 - momentum) * new[last], dim=1)


def _group(columns: torch.Tensor) -> int:
    return max(1, _ENTRIES // len(columns))


@METHODS.register("crd", settings=ContrastSettings)
class ContrastiveDistillation(PairedVectors):
    """L = weight x (loss of the student's embedding + loss of the teacher's)."""

    requires = frozenset({"features", "sample_index"})
    whole_batch = True  # the banks of all ranks take all rows
    classes: torch.Tensor
    bank_student: torch.Tensor
    bank_other: torch.Tensor
    z: torch.Tensor

    def __init__(
        self,
        space: MethodSpace,
        weight: float,
        pairs: Sequence[str],
        embedding_dim: int,
        negatives: int,
        temperature: float,
        momentum: float,
        normaliser: Normaliser,
    ) -> None:
        """UserError: labels that are no classes, a single class, banks above 8 GiB."""
        classes, self_name = _classes(space), space.name
        images = len(classes)
        if 2 * 4 * images * embedding_dim > _MOST_BYTES:
            raise UserError(
                f"method {self_name}: banks of {images:,} images x {embedding_dim} numbers take more than 8 GiB; set "
                "a smaller embedding_dim, or train with fewer images."
            )
        super().__init__(space, pairs)
        self.weight, self.negatives, self.temperature = weight, negatives, temperature
        self.momentum, self.normaliser, self.images = momentum, normaliser, images
        self.embed_student, self.embed_other = (nn.Linear(width, embedding_dim) for width in self.widths)
        self.most_of_a_class = int(classes.unique(return_counts=True)[1].max())
        self.register_buffer("classes", classes.clone(), persistent=False)
        bound = (embedding_dim / 3) ** -0.5
        for name in ("bank_student", "bank_other"):
            self.register_buffer(name, torch.empty(images, embedding_dim).uniform_(-bound, bound))
        self.register_buffer("z", torch.full((2,), -1.0))  # student's anchors, teacher's anchors; -1: not yet known

    def terms(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        index = batch.sample_index
        assert index is not None
        # By the step alone: the same on all ranks and after a kill, and the banks stay on the device.
        generator = torch_generator("crd negatives", batch.stage, batch.step, device=self.classes.device)
        order = torch.randperm(self.images, generator=generator, device=self.classes.device)
        drawn = negatives_of(self.classes, self.classes[index], order, self.negatives, self.most_of_a_class)
        return {"loss": self.weight * self.contrast(student, teacher, index, *drawn, batch.weights)}

    def contrast(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        index: torch.Tensor,
        columns: torch.Tensor,
        counts: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss against given negatives (`negatives_of`); then Z and the banks are renewed."""
        ours = functional.normalize(self.embed_student(student), dim=1)
        other = functional.normalize(self.embed_other(teacher), dim=1)
        found = [
            weighted_mean(self._rows(place, anchors, bank[index], bank[columns], counts), weights)
            for place, (anchors, bank) in enumerate(((ours, self.bank_other), (other, self.bank_student)))
        ]
        renew(self.bank_student, index, ours.detach(), self.momentum)
        renew(self.bank_other, index, other.detach(), self.momentum)
        return found[0] + found[1]

    def _rows(
        self, place: int, anchors: torch.Tensor, positives: torch.Tensor, columns: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """The terms of one side, by groups of rows that are computed again for the gradient where they are many."""
        z = self._normaliser(place, partition(anchors, positives, columns, counts, self.images, self.temperature))
        more = z, self.negatives / self.images, self.temperature
        size = _group(columns)
        groups = zip(anchors.split(size), positives.split(size), counts.split(size), strict=True)
        parts = [(rows, near, columns, times, *more) for rows, near, times in groups]
        if len(parts) == 1:
            return contrast_rows(*parts[0])
        return torch.cat([checkpoint(contrast_rows, *part, use_reentrant=False) for part in parts])

    @torch.no_grad()
    def _normaliser(self, place: int, of_batch: torch.Tensor) -> torch.Tensor:
        known, share = self.z[place], _Z_SHARE if self.normaliser == "running" else 0.0
        self.z[place] = torch.where(known < 0, of_batch, (1.0 - share) * known + share * of_batch)
        return self.z[place].clone()


def _classes(space: MethodSpace) -> torch.Tensor:
    """int64 n; UserError where there are not two."""
    if space.label_space is None or space.label_space.kind != "classes" or space.labels is None:
        raise UserError(
            f"method {space.name} tells images from those of other classes, and these labels are continuous; take rkd "
            "or pkt."
        )
    if len(space.labels.unique()) < 2:
        raise UserError(f"method {space.name} needs images of two classes or more; take rkd or pkt.")
    return space.labels

"""Methods that compare one vector an image: the pooled one, or the means of a map's channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interfaces.method import Batch, Method, Views
from layers.features import Insides, feature_paths
from runtime.errors import UserError
from training.distilling import MethodSpace
from white_box.losses.pairs import Names, pairs_of
from white_box.losses.stages import last_stages


class PairedVectors(Method):
    """Base of these methods: a subclass says with `terms` what is computed of the vectors."""

    requires = frozenset({"features"})

    def __init__(self, space: MethodSpace, pairs: Sequence[str]) -> None:
        """UserError: no insides, unknown names, more than one pair."""
        super().__init__()
        student, teacher = space.insides()
        named = pairs_of(pairs) or pooled_pair(space)
        if len(named) != 1:
            raise UserError(f"method {space.name} compares one vector an image; name one pair.")
        ((teacher_name, student_name),) = named
        self.teacher_features, self.student_features = (teacher_name,), (student_name,)
        self.widths = vector_width(student, student_name), vector_width(teacher, teacher_name)

    def terms(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Of float32 N x d_s and N x d_t (detached): what `Method.forward` gives."""
        raise NotImplementedError

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        ours, other = student.features[self.student_features[0]], teacher.features[self.teacher_features[0]]
        with torch.autocast(ours.device.type, enabled=False):
            return self.terms(vectors_of(ours), vectors_of(other.detach()), batch)


def vectors_of(feature: torch.Tensor) -> torch.Tensor:
    """N x d as it is, N x C x H x W as its channels' means; in float32."""
    return feature.float().flatten(2).mean(dim=2) if feature.ndim > 2 else feature.float()


def pooled_pair(space: MethodSpace) -> Names:
    """The pooled vectors; where a network names none, the last maps."""
    if all("pooled" in feature_paths(insides.network) for insides in space.insides()):
        return (("pooled", "pooled"),)
    return last_stages(space)


def vector_width(insides: Insides, name: str) -> int:
    """Of a vector or a map; UserError where it is neither."""
    return insides.shape(name, dims=1 if len(insides.shapes.get(name, ())) == 1 else 3)[0]

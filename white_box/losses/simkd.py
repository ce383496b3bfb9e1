"""SimKD: the student's last map, projected, must be the teacher's; the teacher's own classifier then reads it.

Source: Chen et al. 2022, arXiv 2203.14001, equation 2.  No label and no other loss is needed.  The finished student is
its trunk, the projector and the teacher's classifier, and so is larger than students of other methods; its own
classifier is gone.  The size of the maps is kept in the head, so that the finished student needs no teacher.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from interfaces.method import Batch, Method, Views
from layers.features import FeatureReader, Insides, feature_paths, quiet
from layers.heads import HEADS
from layers.label_losses import weighted_mean
from layers.projected_head import ProjectedHead
from runtime.errors import UserError
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.stages import PREACT, in_float32, stage_names
from white_box.settings_vectors import ReusedClassifierSettings

PROJECTED = "head.projector"


@in_float32
def squared_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """N x C x H x W, the teacher's averaged to the student's size where it is larger -> N."""
    wanted = functional.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3]))
    return (student - wanted).square().flatten(1).mean(dim=1)


@METHODS.register("simkd", settings=ReusedClassifierSettings)
class ReusedClassifier(Method):
    """L = weight x MSE(projected map, teacher's map)."""

    requires = frozenset({"features", "logits"})  # logits: of a classifier, whose head it takes over
    whole_loss = True
    student_features = (PROJECTED,)

    def __init__(self, space: MethodSpace, weight: float, factor: int) -> None:
        """UserError where the teacher's head cannot be taken over, or its last map is not the one that it reads."""
        super().__init__()
        student, teacher = space.insides()
        self.weight = weight
        theirs: Any = teacher.network
        name, classifier, hidden = _classifier_of(theirs, space.name)
        feature, self._relu = _last_map(teacher, space.name)
        self.teacher_features = (feature,)
        channels, size = teacher.shape(feature)[:2]
        with quiet(student.network):
            ours: Any = student.network
            shape = ours.backbone.maps(student.examples[0].float()).shape
        with torch.random.fork_rng(devices=[]):  # the classifier's first weights are replaced
            outputs = classifier(torch.zeros(2, channels, device=next(theirs.parameters()).device)).shape[1]
        head = ProjectedHead(shape[1], channels, factor, min(size, shape[2]), name, outputs, hidden)
        head.classifier.load_state_dict(classifier.state_dict())
        self._head = (head,)  # in a tuple: a part of the student, not of the method

    def head(self) -> nn.Module:
        return self._head[0]

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        wanted = teacher.features[self.teacher_features[0]].detach()
        wanted = functional.relu(wanted) if self._relu else wanted
        rows = squared_difference(student.features[PROJECTED], wanted)
        return {"loss": self.weight * weighted_mean(rows, batch.weights)}


def _head_of(network: nn.Module) -> nn.Module | None:
    """What the network names logits."""
    path = feature_paths(network).get("logits")
    return network.get_submodule(path) if path else None


def _classifier_of(teacher: nn.Module, method: str) -> tuple[str, nn.Module, int]:
    """(entry of HEADS, module, units of its hidden layers): what reads the teacher's pooled vector.

    Of a teacher that is itself a student of SimKD: what it took over.
    """
    head = _head_of(teacher)
    if isinstance(head, ProjectedHead):
        arguments: Any = head.card["arguments"]
        return str(arguments["classifier"]), head.classifier, int(arguments["hidden"])
    if isinstance(head, nn.Linear):
        return "linear", head, 0
    if isinstance(head, nn.Sequential) and set(head.state_dict()) == set(_regression_keys()):
        return "regression", head, int(head.state_dict()["0.weight"].shape[0])
    raise UserError(
        f"method {method} gives the student the teacher's classifier, and this teacher's head is not known here; take "
        "a teacher that was trained here, or another method on features."
    )


def _regression_keys() -> list[str]:
    return list(HEADS.get("regression")(1, 1).state_dict())


def _last_map(teacher: Insides, method: str) -> tuple[str, bool]:
    """(name, whether a ReLU stands behind it) of the map whose means the classifier reads, found by one pass."""
    network: Any = teacher.network
    if isinstance(_head_of(network), ProjectedHead):
        return PROJECTED, False
    stages = stage_names(teacher)[-1:]
    named = feature_paths(network)
    candidates = [(name, False) for name in stages]
    candidates += [(name + PREACT, True) for name in stages if name + PREACT in named]
    if candidates:
        pixels = torch.randint(0, 256, teacher.examples[0].shape, generator=torch.Generator().manual_seed(0))
        images = pixels.to(teacher.examples[0])
        with quiet(network):
            found = FeatureReader(network, [*(name for name, _ in candidates), "pooled"], "teacher")(images).features
        for name, relu in candidates:
            means = (found[name].relu() if relu else found[name]).mean(dim=(2, 3))
            pooled = found["pooled"]
            if means.shape == pooled.shape and torch.allclose(means, pooled, rtol=1e-3, atol=1e-5):
                return name, relu
    raise UserError(
        f"method {method} needs the teacher's last map, and this teacher's classifier reads something else than a "
        "stage's means; take another network as teacher, or another method on features."
    )

"""NOKD: the labels alone."""

from __future__ import annotations

import torch

from classifiers.distillation.settings import HardLabelSettings
from interfaces.method import Batch, Method, Views
from layers.label_losses import hard_loss
from training.distilling import MethodSpace
from training.methods import METHODS


@METHODS.register("none", settings=HardLabelSettings)
class HardLabels(Method):
    """L = CE with label smoothing; for continuous labels the squared error, which smoothing leaves alone."""

    requires = frozenset({"labels"})
    whole_loss = True

    def __init__(self, space: MethodSpace, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        hard = hard_loss(student.output, batch.labels, self.label_smoothing, batch.weights)
        return {"loss": hard, "hard": hard}

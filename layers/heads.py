"""Heads of classifiers by name: features of the trunk -> logits N x C, or encoded labels N x d (`LabelSpace.encode`).

A head reads the trunk's pooled vector N x feature_dim, or with `reads_map` its last map N x C x H x W.  One that a
method puts in place of the student's own has a `card`, {"name": of its entry, "arguments": {...}}, from which the
finished student is built again.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from runtime.registry import Registry

HEADS: Registry[Any] = Registry("head")
HEADS.declare("projected", "layers.projected_head")
REGRESSION_HIDDEN = 128


@HEADS.register("linear")
def linear_head(feature_dim: int, outputs: int) -> nn.Module:
    """For classes: one layer."""
    return nn.Linear(feature_dim, outputs)


@HEADS.register("regression")
def regression_head(feature_dim: int, outputs: int, hidden: int = REGRESSION_HIDDEN) -> nn.Module:
    """For continuous labels: two hidden layers with batch norm and ReLU, then a linear output in [0, 1].

    hidden: 128 as for RC-49, 512 as for Steering Angle and UTKFace (Ding et al. 2023, arXiv 2104.03164).
    The originals end in a ReLU, which can die and then predicts the lowest label for ever; the predictor clips instead.
    """
    output = nn.Linear(hidden, outputs)
    nn.init.constant_(output.bias, 0.5)  # the middle of the range: no early rush of the whole network to get there
    return nn.Sequential(
        nn.Linear(feature_dim, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        output,
    )

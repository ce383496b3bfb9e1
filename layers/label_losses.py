"""Losses on a classifier's outputs: labels and soft labels.  Pure functions of tensors, weighted by rows.

Outputs and labels: logits N x C and int64 N for classes; encoded values float N x d (`LabelSpace.encode`, [0, 1])
for both with continuous labels.  `weights`: as in `interfaces.method.Batch`.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def hard_loss(
    output: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross entropy (int64 labels), or mean squared error on encoded labels (float labels), of weighted rows."""
    if labels.dtype != torch.int64:
        return squared_loss(output, labels, weights)
    if weights is None:
        return functional.cross_entropy(output, labels, label_smoothing=label_smoothing)
    rows = functional.cross_entropy(output, labels, label_smoothing=label_smoothing, reduction="none")
    return (weights * rows).mean()


def squared_loss(output: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared difference of N x d values, of weighted rows."""
    if weights is None:
        return functional.mse_loss(output, wanted)
    return (weights[:, None] * (output - wanted).square()).mean()


def soft_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """KL_T = (T^2 / B) sum KL(softmax(t / T) || softmax(s / T)): the mean over the batch, not over the elements.

    Hinton et al. 2015, arXiv 1503.02531, section 2.  Dividing by B x C as well, as the first release of cGAN-KD
    does, makes the weight depend on the number of classes.
    """
    student_log = functional.log_softmax(student_logits / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher_logits / temperature, dim=1)
    if weights is None:
        return functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2
    rows = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
    return (weights * rows).mean() * temperature**2

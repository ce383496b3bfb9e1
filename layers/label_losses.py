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
    return weighted_mean(soft_rows(student_logits, teacher_logits, temperature), weights)


def soft_rows(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The N terms T^2 KL(softmax(t / T) || softmax(s / T)) of `soft_loss`."""
    student_log = functional.log_softmax(student_logits / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher_logits / temperature, dim=1)
    rows = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
    return rows * temperature**2


def weighted_mean(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean of N values, each times its row's weight, or of N x N, each times both rows' weights; a scalar stays."""
    if weights is None or not values.ndim:
        return values.mean()
    return ((torch.outer(weights, weights) if values.ndim == 2 else weights) * values).mean()


def standardised(logits: torch.Tensor) -> torch.Tensor:
    """z = (x - mean) / (std + 1e-7) over the classes of each row, std with C - 1; gradients pass through both moments.

    Sun et al. 2024, arXiv 2403.01427.  The variance is held above 1e-14, where it changes nothing but that a row of
    equal logits has a finite gradient.
    """
    variance, mean = torch.var_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (variance.clamp_min(1e-14).sqrt() + 1e-7)

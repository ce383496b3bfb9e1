"""A distillation method: what a student learns from a frozen teacher.

The student may be a classifier, a generator or a translator; trainers know a method by this interface alone.  Imports
torch, and is therefore not among the names of `interfaces` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn


@dataclass(frozen=True)
class Views:
    """What one network gives for a batch; empty where it was not run.

    output: float32 logits N x C, encoded labels N x d (`LabelSpace.encode`, [0, 1]), or images N x C x H x W.
    features: those that the method names, on the device, in the precision of the network's pass.
    """

    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What belongs to the rows of a batch, on the device, and how far the training is.

    weights: float N with mean 1 over the training set, or None: every term of row i counts weights[i] times, and the
    sum is still divided by N, so that the gradient's expectation does not depend on which rows meet in a batch.
    """

    labels: torch.Tensor  # int64 N, or float32 N x d for continuous labels
    weights: torch.Tensor | None = None
    sample_index: torch.Tensor | None = None  # int64 N: which training images; where `requires` names it
    stage: str = "student"
    step: int = 0  # within the stage
    steps: int = 1  # of the stage
    epoch: float = 0.0  # passes through the training images in this stage, for warm-ups


@dataclass(frozen=True)
class Stage:
    """A part of a training.  The last stage has share 1: the training that was asked for; others come before it."""

    name: str = "student"
    share: float = 1.0  # its steps, as a share of those that were asked for
    trains_student: bool = True  # False: the student is not run, its Views are empty
    reads_features: bool = True  # False: the loss is not made from features, and none needs a gradient
    lr_factor: float = 1.0  # on the learning rate; its schedule and the optimiser begin anew with each stage


class Method(nn.Module):
    """Base of all methods.  Its parameters (adapters) and buffers (banks) are trained and saved with the student.

    A registry entry is a subclass, built as `entry(space, **settings)` with a `training.distilling.MethodSpace`.
    """

    # What it reads.  logits, images: teacher.output of a classifier, of a generator; features: the names below; labels,
    # sample_index: of the batch; rotations: both networks see each image in four rotations, rows 4b to 4b + 3.
    requires: frozenset[str] = frozenset()
    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()
    # Whether this is all of the loss.  Else the trainer's own is added: labels; pixels and adversarial terms.
    whole_loss: bool = False
    # Whether the loss is no mean over rows: ranks that share a batch then bring their rows together first.
    whole_batch: bool = False
    rows_per_image: ClassVar[int] = 1  # that `inputs` gives, for the memory that a training takes
    figures: ClassVar[frozenset[str]] = frozenset()  # returned scalars that are only logged and carry no gradient

    def stages(self) -> tuple[Stage, ...]:
        """In order; the last has share 1."""
        return (Stage(),)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Augmented images N x C x H x W as both networks get them.  More views of an image are more rows."""
        if "rotations" not in self.requires:
            return images
        turned = [torch.rot90(images, quarter, dims=(2, 3)) for quarter in range(4)]
        return torch.stack(turned, dim=1).flatten(0, 1)

    def head(self) -> nn.Module | None:
        """What replaces the student's head, an entry of `layers.heads.HEADS`; None: it keeps its own.

        It becomes a part of the student, trained and saved with it, and is no part of the method.
        """
        return None

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        """Named scalars with a mandatory "loss"; the others are its terms, for the log and the first step's check.

        {} in a stage in which the method adds nothing.
        """
        raise NotImplementedError

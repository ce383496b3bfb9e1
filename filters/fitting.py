"""What a filter is fitted on, and the training of its extractor phi, in whose feature space the density ratio lives.

Every step is a function of (seed, step) and the state before it, so a run continued from any checkpoint ends with the
same bytes on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from filters.features import FeatureNetwork, build_feature_network, default_feature_dim, label_loss
from filters.settings import FilterSettings
from image_data.augment import augment
from image_data.batches import BatchOrder
from image_data.quarter_turns import learns_turns, outputs_for, turn
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher
from runtime.seeds import numpy_generator, seed_step, torch_generator
from training.loop import Cadence, TrainingLoop
from training.schedules import cosine, set_learning_rate
from training.state import NamedState

_BLOCK = 256


@dataclass(frozen=True)
class Fit:
    """What the trainings of a filter share."""

    data: ImageSource
    label_space: LabelSpace
    teacher: Teacher
    settings: FilterSettings
    device: torch.device
    augmentations: tuple[str, ...]
    train_rows: np.ndarray
    held_rows: np.ndarray
    out: Path

    def loop(self, title: str, steps: int, state: NamedState, phase: str, first: int = 0) -> TrainingLoop:
        """The steps of one phase.  They are counted through all phases in the log; `first` come before this one."""
        s = self.settings
        cadence = Cadence(s.validate_every_steps, s.checkpoint_every_steps, s.checkpoint_every_seconds)
        return TrainingLoop(title, self.out, steps, state, cadence, phase=phase, first=first)

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        """uint8 images of some rows, on the CPU."""
        return torch.from_numpy(np.array(self.data.images(rows)))

    def encoded(self, rows: np.ndarray) -> torch.Tensor:
        """Their labels as networks take them, on the device."""
        return self.label_space.encode(self.data.labels[rows]).to(self.device)


def train_extractor(fit: Fit, arguments: dict[str, Any]) -> FeatureNetwork:
    """Train phi on the training rows by cross entropy or squared error; returns it in eval mode.

    Of images of one class it learns by how many quarter turns each is turned.
    """
    settings, total = fit.settings, fit.settings.extractor_steps
    seed_step(settings.seed, "filter.extractor.init", 0)
    network = build_feature_network(arguments).to(fit.device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.extractor_lr, weight_decay=settings.extractor_weight_decay
    )
    order = BatchOrder(len(fit.train_rows), settings.extractor_batch, settings.seed, "filter.extractor")
    state = NamedState(extractor=network, optimizer=optimizer)
    loop = fit.loop("feature extractor", total, state, "extractor")
    for step in loop:
        seed_step(settings.seed, "filter.extractor", step)
        rows = fit.train_rows[order.rows(step)]
        images = augment(fit.pixels(rows), fit.augmentations, torch_generator(settings.seed, "filter.augment", step))
        wanted = fit.encoded(rows)
        if learns_turns(fit.label_space):
            images, wanted = turn(images, torch_generator(settings.seed, "filter.turns", step))
        loss = label_loss(network(images.to(fit.device)), wanted.to(fit.device), fit.label_space)
        set_learning_rate(optimizer, settings.extractor_lr * cosine(step, total))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loop.log(step, {"loss": loss})
    return network.eval()


def held_out_rows(
    labels: np.ndarray, label_space: LabelSpace, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, held-out rows): about `share` of each class, or of the range of a continuous label, held out.

    Rows are shuffled by the seed and put in order of their label; then every (1 / share)-th row is held out, counted
    within each class.  A class with a single image keeps it for training.
    """
    shuffled = numpy_generator(seed, "filter", "held out").permutation(len(labels))
    if label_space.kind == "classes":
        groups = [shuffled[labels[shuffled] == value] for value in np.unique(labels)]
    else:
        first = np.asarray(labels).reshape(len(labels), -1)[shuffled, 0]
        groups = [shuffled[np.argsort(first, kind="stable")]]
    chosen = [
        group[np.floor(np.arange(1, len(group) + 1) * share) > np.floor(np.arange(len(group)) * share)]
        for group in groups
    ]
    held = np.sort(
        np.concatenate([rows if len(rows) else group[1:2] for rows, group in zip(chosen, groups, strict=True)])
    )
    return np.setdiff1d(np.arange(len(labels)), held), held


def extractor_arguments(fit: Fit) -> dict[str, Any]:
    """Constructor arguments of the extractor for this data."""
    channels, resolution_px = fit.data.images(fit.train_rows[:1]).shape[1:3]
    return {
        "channels": channels,
        "resolution_px": resolution_px,
        "feature_dim": fit.settings.feature_dim or default_feature_dim(channels, resolution_px),
        "width": fit.settings.extractor_width,
        "outputs": outputs_for(fit.label_space),
        "label_kind": fit.label_space.kind,
    }


@torch.inference_mode()
def extractor_score(fit: Fit, network: FeatureNetwork, rows: np.ndarray) -> float:
    """Accuracy (classes), or mean absolute error in the user's units (continuous labels), without augmentation."""
    outputs = torch.cat([network(fit.pixels(block).to(fit.device)).cpu() for block in blocks(rows)])
    labels = fit.data.labels[rows]
    if fit.label_space.kind == "classes":
        return float((outputs.argmax(dim=1).numpy() == labels).mean())
    return float(np.abs(fit.label_space.decode(outputs) - labels).mean())


def blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Pieces of at most 256 rows."""
    return [rows[begin : begin + _BLOCK] for begin in range(0, len(rows), _BLOCK)]

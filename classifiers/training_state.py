"""What changes while a classifier trains, and how it is saved and continued."""

from __future__ import annotations

from typing import Any

import torch

from classifiers.networks import StudentNetwork
from classifiers.settings import ClassifierSettings
from layers.batch_statistics import share_statistics
from runtime.ranks import ALONE, Ranks
from training.checkpoints import CheckpointFolder, load_module, load_optimizer, module_tensors, optimizer_tensors
from training.ema import ExponentialMovingAverage


class TrainingState:
    """Network, optimiser, averaged copy, and the best state so far."""

    def __init__(
        self, network: StudentNetwork, settings: ClassifierSettings, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.network, self.ranks = network, ranks
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate(0),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
            fused=True,
        )
        half_life = settings.ema_half_life_images
        self.ema = ExponentialMovingAverage(network, half_life) if half_life else None
        share_statistics(network, ranks, device)  # after the copy, which one rank runs alone
        self.keeps_best = settings.selection == "best-validation"
        self.best: dict[str, torch.Tensor] = {}
        self.best_value, self.best_step = float("inf"), 0
        self.curve: list[tuple[int, float]] = []  # (step, validation score)

    @property
    def judged(self) -> StudentNetwork:
        """The network that is validated and kept: the averaged copy where there is one."""
        return self.ema.module if self.ema else self.network  # type: ignore[return-value]

    def update(self, images: int) -> None:
        """One optimiser step on the gradients of all ranks, after which `images` more images have been seen."""
        self.ranks.average_gradients(self.network.parameters())
        self.optimizer.step()
        if self.ema is not None and self.ranks.main:
            self.ema.update(self.network, images)

    def note_validation(self, step: int, value: float) -> None:
        """Note the score, and the state when it is the best so far; an equal later one does not replace it."""
        self.curve.append((step, value))
        if self.keeps_best and value < self.best_value:
            self.best_value, self.best_step = value, step
            self.best = {name: tensor.clone() for name, tensor in self.judged.state_dict().items()}

    def take_best(self) -> None:
        """Put the best state into `judged`, where the settings ask for it."""
        if self.keeps_best:
            self.judged.load_state_dict(self.best)

    def save(self, folder: CheckpointFolder, step: int) -> None:
        """Commit everything after `step` finished steps."""
        tensors = module_tensors("network", self.network) | optimizer_tensors("optimizer", self.optimizer)
        scalars: dict[str, Any] = {"best_step": self.best_step, "curve": self.curve}
        if self.ema:
            tensors |= module_tensors("ema", self.ema.module)
            scalars["ema_images"] = self.ema.images_seen
        if self.best:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
            scalars["best_value"] = self.best_value
        folder.save(step, tensors, scalars)

    def resume(self, folder: CheckpointFolder) -> int:
        """Load the newest checkpoint; returns the number of finished steps."""
        found = folder.load_latest()
        if found is None:
            return 0
        load_module("network", self.network, found.tensors)
        load_optimizer("optimizer", self.optimizer, found.tensors)
        if self.ema:
            load_module("ema", self.ema.module, found.tensors)
            self.ema.images_seen = int(found.scalars["ema_images"])
        self.best_value = float(found.scalars.get("best_value", "inf"))
        self.best_step = int(found.scalars["best_step"])
        self.curve = [(int(step), float(value)) for step, value in found.scalars["curve"]]
        device = next(self.network.parameters()).device
        self.best = {name[5:]: value.to(device) for name, value in found.tensors.items() if name.startswith("best.")}
        return found.step

"""The two training loops of a filter: first the extractor, then the density ratio in its feature space.

Every step is a function of (seed, step) and the state before it, so a run continued from any checkpoint ends with the
same bytes on a CPU.  Steps are counted through both phases.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from filters.density_ratio import RatioNetwork, penalised_softplus
from filters.fake_pool import teacher_features
from filters.features import FeatureNetwork, Features, build_feature_network, default_feature_dim, label_loss
from filters.settings import FilterSettings
from image_data.augment import augment
from image_data.batches import BatchOrder
from image_data.quarter_turns import learns_turns, outputs_for, turn
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher
from runtime.progress import progress
from runtime.seeds import numpy_generator, seed_step, torch_generator
from training.checkpoints import CheckpointFolder, load_module, load_optimizer, module_tensors, optimizer_tensors
from training.stats_log import StatsLog

_BLOCK = 256
_RATIO_LR_DROPS = (0.40, 0.75)  # shares of the steps at which the published schedule divides the rate by ten


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


@dataclass
class Fit:
    """What both loops share."""

    data: ImageSource
    label_space: LabelSpace
    teacher: Teacher
    settings: FilterSettings
    device: torch.device
    augmentations: tuple[str, ...]
    train_rows: np.ndarray
    held_rows: np.ndarray
    checkpoints: CheckpointFolder
    out: Path

    def __post_init__(self) -> None:
        self.resumed = self.checkpoints.load_latest()
        self.log = StatsLog(self.out / "stats.jsonl", range((self.resumed.step if self.resumed else 0) + 1, 1 << 62))
        self._last_save = time.monotonic()

    def save_if_due(self, step: int, last: int, tensors: Callable[[], dict[str, torch.Tensor]], scalars: dict) -> None:
        """Commit a checkpoint every so many steps or seconds and at the end of a phase."""
        settings, now = self.settings, time.monotonic()
        due = step % settings.checkpoint_every_steps == 0 or now - self._last_save >= settings.checkpoint_every_seconds
        if due or step == last:
            self.checkpoints.save(step, tensors(), scalars)
            self._last_save = time.monotonic()

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        """uint8 images of some rows, on the CPU."""
        return torch.from_numpy(np.array(self.data.images(rows)))

    def encoded(self, rows: np.ndarray) -> torch.Tensor:
        """Their labels as networks take them, on the device."""
        return self.label_space.encode(self.data.labels[rows]).to(self.device)


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


def train_extractor(fit: Fit, arguments: dict[str, Any]) -> FeatureNetwork:
    """Train phi on the training rows by cross entropy or squared error; returns it in eval mode.

    Of images of one class it learns by how many quarter turns each is turned.
    """
    settings, total = fit.settings, fit.settings.extractor_steps
    seed_step(settings.seed, "filter.extractor.init", 0)
    network = build_feature_network(arguments).to(fit.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.extractor_lr, weight_decay=settings.extractor_weight_decay
    )
    start = 0
    if fit.resumed is not None:
        start = min(fit.resumed.step, total)
        load_module("extractor", network, fit.resumed.tensors)
        load_optimizer("extractor_optimizer", optimizer, fit.resumed.tensors)
    order = BatchOrder(len(fit.train_rows), settings.extractor_batch, settings.seed, "filter.extractor")

    def tensors() -> dict[str, torch.Tensor]:
        return module_tensors("extractor", network) | optimizer_tensors("extractor_optimizer", optimizer)

    network.train()
    with progress("feature extractor", total, start) as bar:
        for step in range(start, total):
            seed_step(settings.seed, "filter.extractor", step)
            rows = fit.train_rows[order.rows(step)]
            images = augment(
                fit.pixels(rows), fit.augmentations, torch_generator(settings.seed, "filter.augment", step)
            )
            wanted = fit.encoded(rows)
            if learns_turns(fit.label_space):
                images, wanted = turn(images, torch_generator(settings.seed, "filter.turns", step))
            loss = label_loss(network(images.to(fit.device)), wanted.to(fit.device), fit.label_space)
            for group in optimizer.param_groups:
                group["lr"] = settings.extractor_lr * 0.5 * (1.0 + math.cos(math.pi * step / total))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done = step + 1
            if done % settings.validate_every_steps == 0 or done == total:
                fit.log.write({"phase": "extractor", "step": done, "loss": float(loss.detach())})
                bar.advance(done - bar.done, f"loss {float(loss.detach()):.3f}")
            fit.save_if_due(done, total, tensors, {})
    return network.eval()


@torch.inference_mode()
def extractor_score(fit: Fit, network: FeatureNetwork, rows: np.ndarray) -> float:
    """Accuracy (classes), or mean absolute error in the user's units (continuous labels), without augmentation."""
    outputs = torch.cat([network(fit.pixels(block).to(fit.device)).cpu() for block in _blocks(rows)])
    labels = fit.data.labels[rows]
    if fit.label_space.kind == "classes":
        return float((outputs.argmax(dim=1).numpy() == labels).mean())
    return float(np.abs(fit.label_space.decode(outputs) - labels).mean())


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[begin : begin + _BLOCK] for begin in range(0, len(rows), _BLOCK)]


@dataclass
class FeatureTable:
    """Frozen features: real, N x d; their encoded labels; fakes, copies x N x d: `fakes[:, i]` have real i's label."""

    real: torch.Tensor
    encoded: torch.Tensor
    fakes: torch.Tensor

    def of_class(self, value: int) -> FeatureTable:
        """The part of one class."""
        rows = torch.nonzero(self.encoded == value).squeeze(1)
        return FeatureTable(self.real[rows], self.encoded[rows], self.fakes[:, rows])


def feature_tables(fit: Fit, phi: Features) -> tuple[FeatureTable, FeatureTable]:
    """Features of (training, held-out) reals and of fakes that share their labels, each fake seen in one table only."""
    settings, rows = fit.settings, np.concatenate([fit.train_rows, fit.held_rows])

    def describe(images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        return phi.with_label(images, fit.label_space.encode(labels), settings.sees_agreement)

    real = torch.cat([describe(fit.pixels(block), fit.data.labels[block]) for block in _blocks(rows)])
    copies = max(settings.fakes_per_real, -(-settings.fakes_at_least // len(rows)))
    labels = fit.data.labels[rows]
    tiled = np.concatenate([labels] * copies)
    fakes = teacher_features(fit.teacher, tiled, settings.seed, describe).reshape(copies, len(rows), -1)
    encoded, cut = fit.encoded(rows), len(fit.train_rows)
    return (
        FeatureTable(real[:cut].clone(), encoded[:cut], fakes[:, :cut].clone()),
        FeatureTable(real[cut:].clone(), encoded[cut:], fakes[:, cut:].clone()),
    )


@torch.inference_mode()
def table_ratios(network: nn.Module, table: FeatureTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratios of a table's reals, N, and of its fakes, copies * N, without dropout."""
    network.eval()
    r_real = network(table.real, table.encoded)
    return r_real, torch.cat([network(copy, table.encoded) for copy in table.fakes])


@torch.inference_mode()
def judge(network: nn.Module, table: FeatureTable, penalty: float) -> dict[str, float]:
    """Penalised loss over a whole table without dropout, the mean ratio of its reals and of its fakes, and the spread
    of the fakes' ratios (standard deviation over mean): near 0, acceptance does not tell one fake from another.
    """
    r_real, r_fake = table_ratios(network, table)
    loss = penalised_softplus(r_real, r_fake, penalty)
    mean = float(r_fake.mean())
    spread = float(r_fake.std(unbiased=False)) / max(mean, 1e-12)
    return {"loss": float(loss), "mean_r_real": float(r_real.mean()), "mean_r_fake": mean, "spread_r_fake": spread}


@dataclass(frozen=True)
class Phase:
    """Where the training of one ratio network stands: it begins after `first` steps, and draws by `name`.

    `tensors` and `scalars` of what was finished before it go into its checkpoints.
    """

    first: int
    name: str = "filter.ratio"
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)


def train_ratio(
    fit: Fit, arguments: dict[str, Any], tables: tuple[FeatureTable, FeatureTable], phase: Phase
) -> tuple[RatioNetwork, dict[str, Any]]:
    """Train psi and e; the weights with the lowest held-out loss win (step 0, the constant 1, competes)."""
    settings, first, total = fit.settings, phase.first, fit.settings.ratio_steps
    train, held = tables
    seed_step(settings.seed, f"{phase.name}.init", 0)
    network = RatioNetwork(**arguments).to(fit.device)
    network.set_standardisation(torch.cat([train.real, *train.fakes]))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    best = {"best_step": 0, "best_loss": judge(network, held, settings.penalty)["loss"]}
    best_tensors = {name: value.clone() for name, value in module_tensors("best", network).items()}
    start = 0
    if fit.resumed is not None and fit.resumed.step > first:
        start = fit.resumed.step - first
        load_module("ratio", network, fit.resumed.tensors)
        load_optimizer("ratio_optimizer", optimizer, fit.resumed.tensors)
        best_tensors = {name: value for name, value in fit.resumed.tensors.items() if name.startswith("best.")}
        best = {name: fit.resumed.scalars[name] for name in best}
    order = BatchOrder(len(train.real), settings.ratio_batch, settings.seed, phase.name)

    def tensors() -> dict[str, torch.Tensor]:
        moving = module_tensors("ratio", network) | optimizer_tensors("ratio_optimizer", optimizer)
        return {**phase.tensors, **moving, **best_tensors}

    with progress(phase.name.replace("filter.ratio", "density ratio"), total, start) as bar:
        for step in range(start, total):
            loss = _ratio_step(fit, network, optimizer, train, order.rows(step), step, phase.name)
            done = step + 1
            if done % settings.validate_every_steps == 0 or done == total:
                found = judge(network, held, settings.penalty)
                if found["loss"] < best["best_loss"]:
                    best = {"best_step": done, "best_loss": found["loss"]}
                    best_tensors = {name: value.clone() for name, value in module_tensors("best", network).items()}
                fit.log.write({"phase": "ratio", "step": first + done, "train_loss": loss, "held_out": found})
                bar.advance(done - bar.done, f"held-out loss {found['loss']:.4f}")
            fit.save_if_due(first + done, first + total, tensors, {**phase.scalars, **best})
    load_module("best", network, best_tensors)
    return network.eval(), best


def _ratio_step(
    fit: Fit,
    network: RatioNetwork,
    optimizer: torch.optim.Optimizer,
    train: FeatureTable,
    rows: np.ndarray,
    step: int,
    name: str,
) -> float:
    """One optimiser step on a batch of reals and as many fakes with the same labels; returns the loss."""
    settings = fit.settings
    seed_step(settings.seed, name, step)
    drops = sum(step >= share * settings.ratio_steps for share in _RATIO_LR_DROPS)
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * 0.1**drops
    chosen = torch.from_numpy(rows).to(fit.device)
    copies = numpy_generator(settings.seed, name.replace("ratio", "fakes"), step).integers(
        len(train.fakes), size=len(rows)
    )
    encoded = train.encoded[chosen]
    fakes = train.fakes[torch.from_numpy(copies).to(fit.device), chosen]
    network.train()
    both = network(torch.cat([train.real[chosen], fakes]), torch.cat([encoded, encoded]))
    loss = penalised_softplus(both[: len(rows)], both[len(rows) :], settings.penalty)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())

"""Training a light classifier or regressor: plain SGD for a fixed number of optimiser steps.

Promised: the result is a function of (images, settings, teacher) alone on CPU, also after any number of kills; every
run takes `settings.steps` steps, whatever its data; only validation images choose anything.  Test images have no way
in.  Real and fake images come as one source (cGAN-KD: concatenate and shuffle; no loss weight, no batch ratio).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifiers.distillation import build_distiller
from classifiers.networks import StudentNetwork, build_student
from classifiers.predictor import CARD_FILE, ClassifierPredictor, load_classifier, read_classifier_card, save_classifier
from classifiers.scoring import Score, outputs, score_outputs
from classifiers.settings import ClassifierSettings
from classifiers.stats_log import StatsLog
from image_data.augment import augment
from image_data.batches import BatchOrder
from image_data.sources import ImageSource
from interfaces import LabelSpace, Predictor
from layers.ema import ExponentialMovingAverage
from runtime.checkpoints import CheckpointFolder, load_module, load_optimizer, module_tensors, optimizer_tensors
from runtime.errors import UserError
from runtime.progress import progress
from runtime.seeds import seed_step, torch_generator

_CHECKPOINT_EVERY_SECONDS = 30.0
_LOG_EVERY_STEPS = 50
OnValidation = Callable[[int, float], None]


class _Run:
    """What changes during training: network, optimiser, averaged copy, and the best state so far."""

    def __init__(self, network: StudentNetwork, settings: ClassifierSettings) -> None:
        self.network = network
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
            fused=True,
        )
        half_life = settings.ema_half_life_images
        self.ema = ExponentialMovingAverage(network, half_life) if half_life else None
        self.best: dict[str, torch.Tensor] = {}
        self.best_value, self.best_step = float("inf"), 0

    @property
    def judged(self) -> StudentNetwork:
        """The network that is validated and kept: the averaged copy where there is one."""
        return self.ema.module if self.ema else self.network  # type: ignore[return-value]

    def note_validation(self, step: int, value: float, keep: bool) -> None:
        """Remember the state when it is the best so far; an equal later one does not replace it."""
        if value < self.best_value:
            self.best_value, self.best_step = value, step
            if keep:
                self.best = {name: tensor.clone() for name, tensor in self.judged.state_dict().items()}

    def save(self, folder: CheckpointFolder, step: int) -> None:
        tensors = module_tensors("network", self.network) | optimizer_tensors("optimizer", self.optimizer)
        if self.ema:
            tensors |= module_tensors("ema", self.ema.module)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        scalars: dict[str, Any] = {"best_step": self.best_step, "ema_images": self.ema.images_seen if self.ema else 0}
        if self.best_step:
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
        self.best = {name[5:]: tensor for name, tensor in found.tensors.items() if name.startswith("best.")}
        return found.step


def train_classifier(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str],
    teacher: Predictor | None = None,
    *,
    source_counts: Mapping[str, int] | None = None,
    trained_on: Mapping[str, Any] | None = None,
    on_validation: OnValidation | None = None,
) -> dict[str, Any]:
    """Train into the folder `out` (weights and card) and return the card's `result`; a finished folder is not touched.

    `train`, `val`: uint8 N x C x H x W with labels in the user's units.  `teacher`: a Predictor whose outputs on the
    same augmented view the distiller uses.  `source_counts`, e.g. {"real": 100, "fake": 9000}, and `trained_on` go
    into the card.  `on_validation(step, score)` is told every validation score and may raise to stop the run.
    Result: val_metric ("error" or "mae"), val_score, val_cross_entropy, steps, selected_step, images_seen,
    source_counts.  Raises UserError for images, labels, teacher or augmentations that do not fit.
    """
    out = Path(out)
    if (out / CARD_FILE).exists():
        return dict(read_classifier_card(out)["result"])
    names = settings.augmentations(allowed_augmentations)
    shape = _check_inputs(train, val, label_space, settings, teacher)
    if source_counts is not None and sum(source_counts.values()) != len(train):
        raise ValueError(f"source counts {dict(source_counts)} do not add up to the {len(train)} training images")
    seed_step(settings.seed, "classifier initial weights", 0)
    network = build_student(settings.student, shape[0], shape[1], label_space, settings.width)
    start_digest = _start_from(network, settings, shape, label_space)
    run = _Run(network.to(device, memory_format=torch.channels_last).train(), settings)
    score = _optimise(run, train, val, label_space, settings, out, device, names, teacher, on_validation)
    keep_best = settings.selection == "best-validation"
    card = {
        "kind": "classifier",
        "architecture": settings.student,
        "width": settings.width,
        "channels": shape[0],
        "resolution_px": shape[1],
        "label_space": label_space.to_json(),
        "settings": asdict(settings) | {"augmentation": list(names)},
        "initialised_from": start_digest,
        "teacher": getattr(teacher, "card", {}).get("source_digest") if teacher is not None else None,
        "trained_on": dict(trained_on or {}),
        "result": {
            "val_metric": score.metric if score else None,
            "val_score": score.value if score else None,
            "val_cross_entropy": score.cross_entropy if score else None,
            "steps": settings.steps,
            "selected_step": run.best_step if keep_best else settings.steps,
            "images_seen": settings.steps * settings.batch_size,
            "source_counts": dict(source_counts) if source_counts else {"images": len(train)},
        },
    }
    card = save_classifier(out, card, run.best if keep_best else run.judged.state_dict())
    CheckpointFolder(out / "checkpoints").remove()
    return dict(card["result"])


def _optimise(
    run: _Run,
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    out: Path,
    device: torch.device,
    names: Sequence[str],
    teacher: Predictor | None,
    on_validation: OnValidation | None,
) -> Score | None:
    """The loop.  Returns the validation score of the state that is kept."""
    distiller = build_distiller(settings.distiller, settings.distiller_weights)
    checkpoints = CheckpointFolder(out / "checkpoints")
    start = run.resume(checkpoints)
    stats = StatsLog(out / "stats.jsonl", start)
    order = BatchOrder(len(train), settings.batch_size, settings.seed, "classifier batches")
    labels = label_space.encode(train.labels)
    begun = saved = time.monotonic()
    with progress(f"{settings.student} ({settings.distiller})", settings.steps, start) as bar:
        for step in range(start, settings.steps):
            seed_step(settings.seed, "classifier step", step)
            rows = order.rows(step)
            generator = torch_generator(settings.seed, "classifier augmentation", step)
            images = augment(torch.from_numpy(train.images(rows)), names, generator).to(device)
            batch = {"labels": labels[torch.from_numpy(rows)].to(device)}
            soft = {"output": _teacher_output(teacher, images, label_space)} if teacher and distiller.needs_teacher else {}
            for group in run.optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            run.optimizer.zero_grad(set_to_none=True)
            losses = distiller({"output": run.network(images)}, soft, batch)
            losses["loss"].backward()
            run.optimizer.step()
            if run.ema:
                run.ema.update(run.network, len(rows))
            done, last = step + 1, step + 1 == settings.steps
            if done % _LOG_EVERY_STEPS == 0 or last:
                values = {name: float(value.detach()) for name, value in losses.items()}
                if not np.isfinite(values["loss"]):
                    raise UserError(f"{out}: the loss is no longer finite at step {done}; lower the learning rate.")
                rate = (done - start) * settings.batch_size / (time.monotonic() - begun)
                stats.write({"step": done, **values, "lr": settings.learning_rate(step), "images_per_second": rate})
                bar.update(done, f"loss {values['loss']:.3f}")
            if val is not None and (done % settings.validate_every_steps == 0 or last):
                score = score_outputs(outputs(run.judged, val, device), val.labels, label_space)
                run.note_validation(done, score.value, settings.selection == "best-validation")
                stats.write({"step": done, "val_" + score.metric: score.value, "val_ce": score.cross_entropy})
                if on_validation is not None:
                    on_validation(done, score.value)
            due = done % settings.checkpoint_every_steps == 0 or time.monotonic() - saved > _CHECKPOINT_EVERY_SECONDS
            if due or (last and start < done):
                run.save(checkpoints, done)
                saved = time.monotonic()
    if settings.selection == "best-validation":
        run.judged.load_state_dict(run.best)
    return score_outputs(outputs(run.judged, val, device), val.labels, label_space) if val is not None else None


def _teacher_output(teacher: Predictor, images: torch.Tensor, label_space: LabelSpace) -> torch.Tensor:
    """The teacher's logits, or its predictions in network units, on the device of `images`."""
    found = teacher(images)
    if label_space.kind == "continuous":
        found = label_space.encode(found.numpy().astype(np.float64))
    return found.to(images.device).clone()  # a tensor made under inference mode cannot take part in a gradient


def _check_inputs(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    teacher: Predictor | None,
) -> tuple[int, int]:
    """(channels, resolution in px) of the images, or a UserError before any work."""
    if not len(train):
        raise UserError("there are no training images; give real images, fakes, or both.")
    label_space.check(train.labels, "the training labels")
    shape = train.images(np.array([0])).shape
    if val is not None:
        label_space.check(val.labels, "the validation labels")
        if not len(val) or val.images(np.array([0])).shape != shape:
            raise UserError(f"the validation images are none, or of another shape than the training images {shape[1:]}.")
    if settings.selection == "best-validation" and val is None:
        raise UserError("selection best-validation needs validation images; give some, or use selection last.")
    if settings.distiller != "none" and build_distiller(settings.distiller, settings.distiller_weights).needs_teacher:
        if teacher is None:
            raise UserError(f"distiller {settings.distiller} needs a teacher; give --predictor, or use distiller none.")
        found = teacher(torch.from_numpy(train.images(np.array([0]))))
        if found.shape[1:] != (label_space.width,):
            raise UserError(
                f"the teacher gives {found.shape[-1]} outputs, but the labels need {label_space.width}; "
                "take a predictor that was trained on the same label space."
            )
    return int(shape[1]), int(shape[2])


def _start_from(
    network: StudentNetwork, settings: ClassifierSettings, shape: tuple[int, int], label_space: LabelSpace
) -> str | None:
    """Copy the weights of `settings.init_from`; returns their digest.  UserError where the networks differ."""
    if settings.init_from is None:
        return None
    source: ClassifierPredictor = load_classifier(Path(settings.init_from), torch.device("cpu"))
    wanted = (settings.student, settings.width, *shape, label_space.to_json())
    card = source.card
    found = (card["architecture"], card["width"], card["channels"], card["resolution_px"], card["label_space"])
    if found != wanted:
        raise UserError(
            f"{settings.init_from} holds {found[0]} (width {found[1]:g}, {found[2]}x{found[3]} px), not the student "
            f"{wanted[0]} (width {wanted[1]:g}, {wanted[2]}x{wanted[3]} px) with the same labels; take one that fits."
        )
    network.load_state_dict(source.network.state_dict())
    return str(card["source_digest"])

"""Training a light classifier or regressor: plain SGD for a fixed number of optimiser steps.

Promised: the result is a function of (images, settings, teacher) alone on CPU, also after any number of kills; every
run takes `settings.steps` steps, whatever its data; only validation images choose anything.  Test images have no way
in.  Real and fake images come as one source (cGAN-KD: concatenate and shuffle; no batch ratio); a row
counts once in the loss, or as its source's weights say.  Several ranks share each batch; the main one validates and
writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifiers.distillation import Distiller, build_distiller
from classifiers.networks import StudentNetwork, build_student
from classifiers.predictor import CARD_FILE, ClassifierPredictor, load_classifier, read_classifier_card, save_classifier
from classifiers.scoring import Score, outputs, score_outputs
from classifiers.settings import ClassifierSettings
from classifiers.training_state import TrainingState
from image_data.augment import augment
from image_data.batches import BatchOrder
from image_data.label_meeting import LabelHolder, check_same_labels, meet, predictor_holder
from image_data.labels import label_space_from_json
from image_data.sources import ImageSource, row_weights
from interfaces import LabelSpace, Predictor
from runtime.errors import UserError
from runtime.precision import passes
from runtime.progress import progress
from runtime.ranks import ALONE, Ranks
from runtime.seeds import seed_step, torch_generator
from training.checkpoints import CheckpointFolder
from training.stats_log import StatsLog

_CHECKPOINT_EVERY_SECONDS = 30.0
OnValidation = Callable[[int, float], None]


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
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train into the folder `out` (weights and card) and return the card's `result`; a finished folder is not touched.

    `train`, `val`: uint8 N x C x H x W with labels in the user's units.  `teacher`: a Predictor whose outputs on the
    same augmented view the distiller uses.  `source_counts`, e.g. {"real": 100, "fake": 9000}, and `trained_on` go
    into the card.  `on_validation(step, score)` is told every validation score, also those before a kill, and may
    raise to stop the run.

    Result: val_metric ("error" or "mae"), val_score, val_cross_entropy, steps, selected_step, images_seen,
    val_curve, source_counts.  Raises UserError for images, labels, teacher or augmentations that do not fit.
    """
    out = Path(out)
    if (out / CARD_FILE).exists():
        result = dict(read_classifier_card(out)["result"])
        for step, value in result["val_curve"] if on_validation is not None else []:
            on_validation(step, value)  # type: ignore[misc]
        return result
    settings = settings.for_labels(label_space.kind)
    names = settings.augmentations(allowed_augmentations)
    shape = _check_inputs(train, val, label_space, settings, teacher)
    if source_counts is not None and sum(source_counts.values()) != len(train):
        raise ValueError(f"source counts {dict(source_counts)} do not add up to the {len(train)} training images")
    seed_step(settings.seed, "classifier initial weights", 0)
    network = build_student(settings.student, shape[0], shape[1], label_space, settings.width)
    start_digest = _start_from(network, settings, shape, label_space)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    state = TrainingState(network, settings, device, ranks)
    task = _Task(train, val, label_space, settings, device, names, teacher, on_validation, ranks)
    _optimise(task, state, out)
    if ranks.main:
        state.take_best()
        card = _card(task, state, shape) | {
            "initialised_from": start_digest,
            "trained_on": dict(trained_on or {}),
        }
        card["result"]["source_counts"] = dict(source_counts) if source_counts else {"images": len(train)}
        save_classifier(out, card, state.judged.state_dict())
        CheckpointFolder(out / "checkpoints").remove()
    ranks.wait()
    return dict(read_classifier_card(out)["result"])


def check_training(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    allowed_augmentations: Sequence[str],
    teacher: Predictor | None = None,
) -> None:
    """Raise the UserError with which `train_classifier` would refuse all this, before any folder is made."""
    settings.augmentations(allowed_augmentations)
    shape = _check_inputs(train, val, label_space, settings, teacher)
    network = build_student(settings.student, shape[0], shape[1], label_space, settings.width)
    _start_from(network, settings, shape, label_space)


@dataclass(frozen=True)
class _Task:
    """What does not change while a network trains."""

    train: ImageSource
    val: ImageSource | None
    label_space: LabelSpace
    settings: ClassifierSettings
    device: torch.device
    augmentations: Sequence[str]
    teacher: Predictor | None
    on_validation: OnValidation | None
    ranks: Ranks

    def validate(self, state: TrainingState) -> Score | None:
        if self.val is None:
            return None
        return score_outputs(outputs(state.judged, self.val, self.device), self.val.labels, self.label_space)

    def validation_due(self, done: int) -> bool:
        return (
            self.val is not None
            and self.ranks.main
            and (done % self.settings.validate_every_steps == 0 or done == self.settings.steps)
        )


def _card(task: _Task, state: TrainingState, shape: tuple[int, int]) -> dict[str, Any]:
    """What is known of the finished network; nothing in it depends on time or machine."""
    settings, score = task.settings, task.validate(state)
    return {
        "kind": "classifier",
        "architecture": settings.student,
        "width": settings.width,
        "channels": shape[0],
        "resolution_px": shape[1],
        "label_space": task.label_space.to_json(),
        "settings": asdict(settings) | {"augmentation": list(task.augmentations)},
        "teacher": getattr(task.teacher, "card", {}).get("source_digest"),
        "result": {
            "val_metric": score.metric if score else None,
            "val_score": score.value if score else None,
            "val_cross_entropy": score.cross_entropy if score else None,
            "val_curve": [list(point) for point in state.curve],
            "steps": settings.steps,
            "selected_step": state.best_step if state.keeps_best else settings.steps,
            "images_seen": settings.steps * settings.batch_size,
        },
    }


def _optimise(task: _Task, state: TrainingState, out: Path) -> None:
    """The loop: every step is a function of (images, settings, step) and the state before it."""
    settings = task.settings
    distiller = build_distiller(settings.distiller, settings.distiller_weights)
    checkpoints = CheckpointFolder(out / "checkpoints")
    start = state.resume(checkpoints)
    task.ranks.begin(start, [state.network])
    for done, value in state.curve if task.on_validation is not None else []:
        task.on_validation(done, value)  # type: ignore[misc]  # after a kill the listener hears all scores again
    stats = StatsLog(out / "stats.jsonl", start, task.ranks.main)
    order = BatchOrder(len(task.train), settings.batch_size, settings.seed, "classifier batches")
    labels = task.label_space.encode(np.array(task.train.labels))
    begun = saved = time.monotonic()
    with progress(f"{settings.student} ({settings.distiller})", settings.steps, start) as bar:
        for step in range(start, settings.steps):
            losses = _step(task, state, distiller, order.rows(step), labels, step)
            done = step + 1
            if done % settings.log_every_steps == 0 or done == settings.steps:
                values = {name: float(value.detach()) for name, value in task.ranks.mean(losses).items()}
                if not np.isfinite(values["loss"]):
                    raise UserError(f"{out}: the loss is no longer finite at step {done}; lower the learning rate.")
                rate = round((done - start) * settings.batch_size / (time.monotonic() - begun), 1)
                stats.write({"step": done, **values, "lr": settings.learning_rate(step), "images_per_second": rate})
                bar.update(done, f"loss {values['loss']:.3f}")
            if task.validation_due(done) and (score := task.validate(state)):
                state.note_validation(done, score.value)
                stats.write(
                    {"step": done, "val_" + score.metric: score.value, "val_cross_entropy": score.cross_entropy}
                )
                if task.on_validation is not None:
                    task.on_validation(done, score.value)
            overdue = time.monotonic() - saved > _CHECKPOINT_EVERY_SECONDS
            if task.ranks.main and done < settings.steps and (overdue or done % settings.checkpoint_every_steps == 0):
                state.save(checkpoints, done)
                saved = time.monotonic()


def _step(
    task: _Task, state: TrainingState, distiller: Distiller, rows: np.ndarray, labels: torch.Tensor, step: int
) -> dict[str, torch.Tensor]:
    """One optimiser step on the batch `rows`; returns the distiller's scalars over this rank's part of it."""
    settings = task.settings
    whole, rows = len(rows), task.ranks.part(rows)
    seed_step(settings.seed, task.ranks.purpose("classifier step"), step)
    generator = torch_generator(settings.seed, "classifier augmentation", step)
    pixels = torch.from_numpy(task.train.images(rows))
    images = augment(pixels, task.augmentations, generator, ranks=task.ranks).to(task.device)
    batch = {"labels": labels[torch.from_numpy(rows)].to(task.device)}
    weights = row_weights(task.train)
    if weights is not None:
        batch["weights"] = torch.from_numpy(weights[rows]).to(task.device)
    soft: dict[str, torch.Tensor] = {}
    if task.teacher is not None and distiller.needs_teacher:  # it sees the same augmented view
        soft = {"output": _teacher_output(task.teacher, images, task.label_space)}
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate(step)
    state.optimizer.zero_grad(set_to_none=True)
    with passes(settings.precision, task.device):
        output = state.network(images).float()
    losses = distiller({"output": output}, soft, batch)
    losses["loss"].backward()
    state.update(whole)
    return losses


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
            raise UserError(
                f"the validation images are none, or of another shape than the training images {shape[1:]}."
            )
    if settings.selection == "best-validation" and val is None:
        raise UserError("selection best-validation needs validation images; give some, or use selection last.")
    if build_distiller(settings.distiller, settings.distiller_weights).needs_teacher:
        if teacher is None:
            raise UserError(f"distiller {settings.distiller} needs a teacher; give --predictor, or use distiller none.")
        found = teacher(torch.from_numpy(train.images(np.array([0]))))
        if found.shape[1:] != (label_space.width,):
            raise UserError(
                f"the teacher gives {found.shape[-1]} outputs, but the labels need {label_space.width}; "
                "take a predictor that was trained on the same label space."
            )
        if "label_space" in teacher.card:
            space = label_space_from_json(teacher.card["label_space"])
            theirs = predictor_holder("the teacher of soft labels", teacher.card, space)
            check_same_labels(LabelHolder("data", "the training images", label_space), theirs)
    return int(shape[1]), int(shape[2])


def _start_from(
    network: StudentNetwork, settings: ClassifierSettings, shape: tuple[int, int], label_space: LabelSpace
) -> str | None:
    """Copy the weights of `settings.init_from`; returns their digest.  UserError where the networks differ."""
    if settings.init_from is None:
        return None
    source: ClassifierPredictor = load_classifier(Path(settings.init_from), torch.device("cpu"))
    if source.card.get("foreign"):
        raise UserError(f"{settings.init_from} was imported from another program; take one of train-classifier's.")
    wanted = (settings.student, settings.width, *shape)
    card = source.card
    found = (card["architecture"], card["width"], card["channels"], card["resolution_px"])
    if found != wanted:
        raise UserError(
            f"{settings.init_from} holds {found[0]} (width {found[1]:g}, {found[2]}x{found[3]} px), not the student "
            f"{wanted[0]} (width {wanted[1]:g}, {wanted[2]}x{wanted[3]} px); take one that fits."
        )
    start = LabelHolder("network", f"--init-from {settings.init_from}", source.label_space)
    exact = label_space.kind == "continuous"  # its outputs are in units of the range
    meet(LabelHolder("data", "the training images", label_space), start, exact=exact)
    network.load_state_dict(source.network.state_dict())
    return str(card["source_digest"])

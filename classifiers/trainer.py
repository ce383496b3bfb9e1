"""Training a light classifier or regressor: plain SGD for a fixed number of optimiser steps.

Promised: the result is a function of (images, settings, teacher) alone on a CPU, also after any number of kills; every
run takes `settings.steps` steps, whatever its data, unless epochs are asked for; only validation images choose
anything.  Test images have no way in.  Real and fake images come as one source, which says the rows of each batch
(cGAN-KD: concatenate and shuffle); a row counts once in the loss, or as its source's weights say.  Several ranks share
each batch; the main one validates and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from classifiers.inputs import check_inputs, start_from, training_augmentations
from classifiers.methods import TeacherViews, build_classifier_method, plain_teacher
from classifiers.networks import StudentNetwork, build_student
from classifiers.predictor import FOLDER
from classifiers.scoring import Score, outputs, score_outputs
from classifiers.settings import ClassifierSettings
from classifiers.stored_outputs import StoredTeacher
from image_data.augment import augment
from image_data.on_device import check_fits, upload
from image_data.sources import ImageSource
from interfaces import LabelSpace, Predictor
from interfaces.method import Batch, Views
from layers.batch_statistics import share_statistics
from layers.features import FeatureReader
from runtime.precision import passes
from runtime.ranks import ALONE, Ranks
from runtime.seeds import seed_step, torch_generator
from runtime.settings import as_json
from training.compiling import check_compile, compile_passes, plain_passes
from training.distilling import Distillation, Moment
from training.ema import ExponentialMovingAverage
from training.loop import Cadence, TrainingLoop, finish_training
from training.schedules import set_learning_rate
from training.state import BestState, NamedState

OnValidation = Callable[[int, float], None]


def train_classifier(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str],
    teacher: Predictor | StoredTeacher | None = None,
    *,
    source_counts: Mapping[str, int] | None = None,
    trained_on: Mapping[str, Any] | None = None,
    on_validation: OnValidation | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train into the folder `out` (weights and card) and return the card's `result`; a finished folder is not touched.

    `train`, `val`: uint8 N x C x H x W with labels in the user's units.  `teacher`: a Predictor, which sees the very
    images that the student sees, or its stored outputs for these training images.  `source_counts`, e.g.
    {"real": 100, "fake": 9000}, and `trained_on` go into the card.  `on_validation(step, score)` is told every
    validation score, also those before a kill, and may raise to stop the run.

    Result: val_metric ("error" or "mae"), val_score, val_cross_entropy, steps, selected_step, images_seen,
    val_curve, source_counts.  Raises UserError for images, labels, teacher or augmentations that do not fit.
    """
    out, listen = Path(out), on_validation or (lambda step, score: None)
    if FOLDER.finished(out):
        result = dict(FOLDER.read_card(out)["result"])
        for step, value in result["val_curve"]:
            listen(step, value)
        return result
    settings = settings.for_labels(label_space.kind).for_images(len(train))
    names = training_augmentations(settings, allowed_augmentations, teacher)
    shape = check_inputs(train, val, label_space, settings, teacher)
    _check_machine(train, settings, device)
    if source_counts is not None and sum(source_counts.values()) != len(train):
        raise ValueError(f"source counts {dict(source_counts)} do not add up to the {len(train)} training images")
    seed_step(settings.seed, "classifier initial weights", 0)
    network = build_student(settings.network, shape[0], shape[1], label_space)
    start_digest = start_from(network, settings, shape, label_space)
    network = network.to(device).to(memory_format=torch.channels_last).train()  # convolutions are faster so on a CPU
    labels = label_space.encode(np.array(train.labels))
    method = build_classifier_method(settings, network, label_space, labels, teacher, (*shape, shape[1]))
    task = TrainingTask(train, val, label_space, settings, device, names, teacher, ranks)
    distillation = Distillation(method, settings.steps, ranks, device)
    try:
        trained, best = _optimise(task, network, distillation, labels, out, listen)
    finally:
        plain_passes(network)
        plain_teacher(teacher)
    if ranks.main:
        best.restore(trained)
        card = training_card(task, trained, best, distillation, shape) | {
            "initialised_from": start_digest,
            "trained_on": dict(trained_on or {}),
        }
        card["result"]["source_counts"] = dict(source_counts) if source_counts else {"images": len(train)}
        FOLDER.write(out, card, trained.state_dict())
    finish_training(out, ranks)
    return dict(FOLDER.read_card(out)["result"])


def _optimise(
    task: TrainingTask, network: StudentNetwork, distillation: Distillation, labels: torch.Tensor, out: Path,
    listen: OnValidation,
) -> tuple[StudentNetwork, BestState]:  # fmt: skip
    """The loop.  Returns what was trained, the EMA where there is one, and its validation scores."""
    settings, device, ranks = task.settings, task.device, task.ranks
    method = distillation.method
    parameters = [*network.parameters(), *method.parameters()]  # adapters learn in the student's optimiser
    optimizer = sgd(parameters, settings)
    ema = ExponentialMovingAverage(network, settings.ema_half_life_images) if settings.ema_half_life_images else None
    share_statistics(network, ranks, device)  # after the EMA's copy, which one rank runs alone
    trained: StudentNetwork = ema.module if ema else network  # type: ignore[assignment]
    best = BestState(keep=settings.selection == "best-validation")
    order = task.train.batches(settings.batch_size, settings.seed, "classifier batches")
    reader = FeatureReader(network, method.student_features, "student")
    teacher_views = TeacherViews(task.teacher, method, settings.seed, device)
    if settings.compile:
        compile_passes(network, reader.modules, while_training=True)
        teacher_views.compile()
    loop = TrainingLoop(
        f"{settings.network} ({settings.method})",
        out,
        distillation.steps,
        NamedState(network=network, method=method, optimizer=optimizer, ema=ema, best=best),
        Cadence(settings.log_every_steps, settings.checkpoint_every_steps),
        ranks,
    )
    for done, value in best.curve:
        listen(done, value)  # after a kill the listener hears all scores again
    for step in loop:
        # Each step has its own random stream (dropout), so that a resume needs no generator's state.
        seed_step(settings.seed, ranks.purpose("classifier step"), step)
        at = distillation.at(step)
        if at.step == 0:
            optimizer.state.clear()  # each stage has momenta of its own, of what it trains
        rows = ranks.part(order.rows(step))
        images, batch = method.inputs(task.images(rows, step)), task.batch(rows, labels, at)
        teacher = teacher_views(images, rows, step)
        with passes(settings.precision, device):
            student = reader(images) if at.stage.trains_student else Views()
            losses = distillation(student, teacher, batch)
        lr = at.stage.lr_factor * settings.learning_rate(at.step, at.steps)
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        ranks.average_gradients(parameters)
        optimizer.step()  # leaves what got no gradient as it is: the student in a stage of the adapters
        if ema is not None and ranks.main and at.stage.trains_student:
            ema.update(network, settings.batch_size)
        rate = round(loop.steps_per_second(step) * settings.batch_size, 1)
        loop.log(step, losses, lr=lr, images_per_second=rate)
        if ranks.main and loop.due(step, settings.validate_every_steps) and (score := task.validate(trained)):
            best.note(step + 1, score.value, trained)
            loop.write(step, {"val_" + score.metric: score.value, "val_cross_entropy": score.cross_entropy})
            listen(step + 1, score.value)
    return trained, best


def sgd(parameters: Sequence[nn.Parameter], settings: ClassifierSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings."""
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate(0),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=True,
    )


@dataclass(frozen=True)
class TrainingTask:
    """What does not change while a network trains."""

    train: ImageSource
    val: ImageSource | None
    label_space: LabelSpace
    settings: ClassifierSettings
    device: torch.device
    augmentations: Sequence[str]
    teacher: Predictor | StoredTeacher | None
    ranks: Ranks

    @cached_property
    def pixels(self) -> torch.Tensor | None:
        """All training images on the device, where the settings want them there."""
        return upload(self.train, self.device) if self.settings.data_on_device else None

    def images(self, rows: np.ndarray, step: int) -> torch.Tensor:
        """This rank's part of the step's images, augmented, uint8, on the device."""
        seed = self.settings.seed
        if self.pixels is None:
            pixels = torch.from_numpy(self.train.images(rows))
        else:
            pixels = self.pixels[torch.from_numpy(rows).to(self.device)]
        if isinstance(self.teacher, StoredTeacher):
            return self.teacher.images(pixels, rows, seed, step).to(self.device)
        generator = torch_generator(seed, "classifier augmentation", step)
        return augment(pixels, self.augmentations, generator, ranks=self.ranks).to(self.device)

    def batch(self, rows: np.ndarray, labels: torch.Tensor, at: Moment) -> Batch:
        """What belongs to the rows."""
        index, weights = torch.from_numpy(rows), self.train.weights
        return Batch(
            labels[index].to(self.device),
            None if weights is None else torch.from_numpy(weights[rows]).to(self.device),
            index.to(self.device),
            at.stage.name,
            at.step,
            at.steps,
            at.step * self.settings.batch_size / len(self.train),
        )

    def validate(self, network: nn.Module) -> Score | None:
        if self.val is None:
            return None
        return score_outputs(outputs(network, self.val, self.device), self.val.labels, self.label_space)


def check_training(
    train: ImageSource,
    val: ImageSource | None,
    label_space: LabelSpace,
    settings: ClassifierSettings,
    allowed_augmentations: Sequence[str],
    teacher: Predictor | StoredTeacher | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
) -> None:
    """Raise the UserError with which `train_classifier` would refuse all this, before any folder is made."""
    training_augmentations(settings, allowed_augmentations, teacher)
    shape = check_inputs(train, val, label_space, settings, teacher)
    _check_machine(train, settings, device)
    network = build_student(settings.network, shape[0], shape[1], label_space)
    start_from(network, settings, shape, label_space)
    labels = label_space.encode(np.array(train.labels))
    build_classifier_method(settings, network, label_space, labels, teacher, (*shape, shape[1]))


def _check_machine(train: ImageSource, settings: ClassifierSettings, device: torch.device) -> None:
    """UserError for what the settings ask of this machine and it does not have."""
    if settings.compile:
        check_compile(device)
    if settings.data_on_device:
        check_fits(train, device)


def training_card(
    task: TrainingTask, network: StudentNetwork, best: BestState, distillation: Distillation, shape: tuple[int, int]
) -> dict[str, Any]:
    """What is known of the finished network; nothing in it depends on time or machine."""
    settings, score = task.settings, task.validate(network)
    stated = {name: value for name, value in as_json(settings).items() if name != "data_on_device"}
    return {
        "architecture": settings.network.name,
        "network": settings.network.arguments(),
        "channels": shape[0],
        "resolution_px": shape[1],
        **({"head": network.head_card} if network.head_card else {}),
        "label_space": task.label_space.to_json(),
        "settings": stated | {"augmentation": list(task.augmentations)},
        "teacher": getattr(task.teacher, "card", {}).get("source_digest"),
        "result": {
            "val_metric": score.metric if score else None,
            "val_score": score.value if score else None,
            "val_cross_entropy": score.cross_entropy if score else None,
            "val_curve": [list(point) for point in best.curve],
            "steps": settings.steps,
            "selected_step": best.step if best.keep else distillation.steps,  # as val_curve counts
            "images_seen": distillation.steps * settings.batch_size,
        },
    }

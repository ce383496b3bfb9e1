"""Training several equal students at once, as one network of grouped convolutions (`layers.grouped`).

Each is what `classifiers.trainer` makes of it alone, but for rounding: its own first weights, images, order,
augmentation, loss and validation curve, all from its own seed.  They share network, method, teacher, steps and rate.  A
group is one training: killed, it goes on from its checkpoint with all of them.

Worth it for small networks on small images only (`STUDENTS_AT_ONCE`; the table is in docs/rho_search.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from classifiers.inputs import check_inputs
from classifiers.methods import TeacherViews, build_classifier_method
from classifiers.networks import StudentNetwork, build_student
from classifiers.predictor import FOLDER
from classifiers.scoring import BLOCK_ROWS, score_outputs
from classifiers.settings import ClassifierSettings
from classifiers.trainer import OnValidation, TrainingTask, sgd, training_card
from evaluation.cost import multiply_adds
from image_data.batches import BatchOrder
from image_data.sources import ImageSource
from interfaces import LabelSpace, Predictor
from interfaces.method import Views
from layers.grouped import join, split_state
from runtime.ranks import ALONE
from runtime.seeds import seed_step
from training.distilling import Distillation
from training.loop import Cadence, TrainingLoop, finish_training
from training.schedules import set_learning_rate
from training.state import BestState, NamedState

STUDENTS_AT_ONCE = 8
LARGEST_NETWORK = 1_000_000  # multiply-adds of one image; above, grouped convolutions are hardly faster on a CPU
LARGEST_BATCH = 64  # images of one student; above, its own convolutions are large enough
_METHODS = ("none", "blkd")


@dataclass(frozen=True)
class Member:
    """One student of a group.  settings: as for all but the seed; out: the folder of its weights and card."""

    train: ImageSource
    settings: ClassifierSettings
    out: Path
    listen: OnValidation


def at_once(settings: ClassifierSettings, shape: Sequence[int], label_space: LabelSpace, device: torch.device) -> int:
    """How many such students are best trained at once: `STUDENTS_AT_ONCE`, or 1.  shape: (C, H, W) of an image."""
    plain = (
        settings.method.name in _METHODS
        and settings.selection == "last"
        and not settings.ema_half_life_images
        and settings.precision == "float32"
        and settings.init_from is None
        and settings.epochs is None  # all take the same number of steps
        and not settings.compile
        and not settings.data_on_device
    )
    if not plain or device.type != "cpu" or settings.batch_size > LARGEST_BATCH:
        return 1
    networks = [build_student(settings.network, shape[0], shape[1], label_space).eval() for _ in range(2)]
    example = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    if multiply_adds(networks[0], [example]) > LARGEST_NETWORK or join(networks, example) is None:
        return 1
    return STUDENTS_AT_ONCE


def train_group(
    members: Sequence[Member],
    val: ImageSource,
    label_space: LabelSpace,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str],
    teacher: Predictor | None = None,
) -> None:
    """Train all members, each into its own folder; `out` holds what they share while they train.

    The arguments are those of `train_classifier`.  A member whose folder is finished keeps it.
    """
    if not all(FOLDER.finished(member.out) for member in members):
        students = [_Student.of(one, val, label_space, device, allowed_augmentations, teacher) for one in members]
        _optimise(students, out)
        for student in students:
            student.write()
        finish_training(out)
    for member in members:
        for step, value in FOLDER.read_card(member.out)["result"]["val_curve"]:
            member.listen(step, value)


@dataclass(frozen=True)
class _Student:
    """A member, with all that its training alone would have."""

    member: Member
    task: TrainingTask
    network: StudentNetwork
    distillation: Distillation
    teacher: TeacherViews
    labels: torch.Tensor
    order: BatchOrder
    scores: BestState
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, member: Member, val: ImageSource, label_space: LabelSpace, device: torch.device,
        allowed_augmentations: Sequence[str], teacher: Predictor | None,
    ) -> _Student:  # fmt: skip
        """As `train_classifier` begins; UserError for what does not fit."""
        settings = member.settings.for_labels(label_space.kind)
        names = settings.augmentations(allowed_augmentations)
        shape = check_inputs(member.train, val, label_space, settings, teacher)
        seed_step(settings.seed, "classifier initial weights", 0)
        network = build_student(settings.network, shape[0], shape[1], label_space).to(device).train()
        labels = label_space.encode(np.array(member.train.labels))
        method = build_classifier_method(settings, network, label_space, labels, teacher, (*shape, shape[1]))
        return cls(
            replace(member, settings=settings),
            TrainingTask(member.train, val, label_space, settings, device, names, teacher, ALONE),
            network,
            Distillation(method, settings.steps, ALONE, device),
            TeacherViews(teacher, method, settings.seed, device),
            labels,
            member.train.batches(settings.batch_size, settings.seed, "classifier batches"),
            BestState(keep=False),
            shape,
        )

    def write(self) -> None:
        """Weights and card, unless they are there."""
        if FOLDER.finished(self.member.out):
            return
        network = self.network.to(memory_format=torch.channels_last)  # as it is trained alone
        card = training_card(self.task, network, self.scores, self.distillation, self.shape)
        card |= {"initialised_from": None, "trained_on": {}}
        card["result"]["source_counts"] = {"images": len(self.member.train)}
        FOLDER.write(self.member.out, card, network.state_dict())


def _optimise(students: Sequence[_Student], out: Path) -> None:
    """The loop over the joined network; at its end each student's network has its own weights."""
    task, settings = students[0].task, students[0].task.settings
    example = torch.from_numpy(task.train.images(np.arange(2) % len(task.train)))
    joined = join([student.network for student in students], example.to(task.device))
    if joined is None:
        raise ValueError(f"{settings.network} cannot be joined")
    joined = joined.to(memory_format=torch.channels_last).train()
    optimizer = sgd(list(joined.parameters()), settings)
    scores = {f"scores{number}": student.scores for number, student in enumerate(students)}
    loop = TrainingLoop(
        f"{len(students)} x {settings.network} ({settings.method})",
        out,
        settings.steps,
        NamedState(network=joined, optimizer=optimizer, **scores),
        Cadence(settings.log_every_steps, settings.checkpoint_every_steps),
    )
    for step in loop:
        losses = _losses(students, joined, step)
        lr = settings.learning_rate(step, settings.steps)
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        rate = round(loop.steps_per_second(step) * settings.batch_size * len(students), 1)
        loop.log(step, {"loss": losses.mean()}, lr=lr, images_per_second=rate)
        if loop.due(step, settings.validate_every_steps):
            _validate(students, joined, step + 1)
    for number, student in enumerate(students):
        student.network.load_state_dict(split_state(joined, len(students), number))


def _losses(students: Sequence[_Student], joined: nn.Module, step: int) -> torch.Tensor:
    """Each student's own loss on its own batch."""
    rows = [student.order.rows(step) for student in students]
    images = [student.task.images(own, step) for student, own in zip(students, rows, strict=True)]
    outputs = _of_each(joined(torch.cat(images, dim=1)).float(), len(students))
    losses = []
    for student, own, seen, output in zip(students, rows, images, outputs, strict=True):
        batch = student.task.batch(own, student.labels, student.distillation.at(step))
        losses.append(student.distillation(Views(output), student.teacher(seen, own, step), batch)["loss"])
    return torch.stack(losses)


def _of_each(output: torch.Tensor, count: int) -> list[torch.Tensor]:
    """N x (count K) -> count times N x K."""
    return [part.contiguous() for part in output.reshape(len(output), count, -1).unbind(1)]


def _validate(students: Sequence[_Student], joined: nn.Module, done: int) -> None:
    """Note the score of each on the validation images, in evaluation mode."""
    task, count = students[0].task, len(students)
    val = task.val
    if val is None:
        return
    joined.eval()
    found: list[list[torch.Tensor]] = [[] for _ in students]
    with torch.inference_mode():
        for start in range(0, len(val), BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(val)))
            images = torch.from_numpy(val.images(rows)).to(task.device).repeat(1, count, 1, 1)
            for kept, part in zip(found, _of_each(joined(images).float().cpu(), count), strict=True):
                kept.append(part)
    joined.train()
    for student, parts in zip(students, found, strict=True):
        score = score_outputs(torch.cat(parts), val.labels, task.label_space)
        student.scores.note(done, score.value, student.network)

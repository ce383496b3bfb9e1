"""Distilling from stored outputs against a running teacher: processor time, and the student's error.

`cost`: one student trained from a running teacher of about four times its multiply-adds, and from what that teacher
said of the same images, by the trainer itself and in turns.  Processor seconds, so that other work on the machine
counts little.  Untrained networks and noise: neither changes the time.
`error`: students of one teacher on 100 labelled digits, with the running teacher and with 1, 4 and 16 stored views,
and with one view as it is, without augmentation; on validation images.  The spread is over seeds of the training; a
seed's students start from the same weights and see their images in the same order.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import clocks
from classifiers import STUDENTS, ClassifierPredictor, ClassifierSettings, load_classifier, train_classifier
from classifiers.networks import build_student
from classifiers.stored_outputs import StoredTeacher, open_outputs
from classifiers.storing_outputs import ViewedImages, ViewPlan, store_outputs
from evaluation.cost import multiply_adds
from image_data.labels import ClassLabels
from image_data.real import load_real
from image_data.sources import ArraySource
from runtime.progress import say, silenced
from training.methods import METHODS

CPU = torch.device("cpu")
STUDENT, TEACHER = STUDENTS.choose("resnet8"), STUDENTS.choose("resnet8", {"width": 2.0})
SEEDS, VIEWS = 5, (1, 4, 16)
RUNNING = "running teacher"
_SIDE, _CLASSES, _BATCH = 32, 10, 64
_SMALL_STUDENT = STUDENTS.choose("resnet8", {"width": 0.5})


def cost(rounds: int, steps: int, images: int, out: Path | None) -> dict[str, Any]:
    """Multiply-adds, milliseconds of the processor for each step and stored view, and their ratios (medians)."""
    rng = np.random.default_rng(0)
    space = ClassLabels(tuple(map(str, range(_CLASSES))))
    pixels = rng.integers(0, 256, (images, 3, _SIDE, _SIDE), dtype=np.uint8)
    train = ArraySource(pixels, rng.integers(0, _CLASSES, images))
    teacher = _untrained(TEACHER, space)
    example = (torch.zeros(1, 3, _SIDE, _SIDE, dtype=torch.uint8),)
    student_adds = multiply_adds(build_student(STUDENT, 3, _SIDE, space), example)
    teacher_adds = multiply_adds(teacher.network, example)
    settings = ClassifierSettings(
        network=STUDENT, method=METHODS.choose("blkd"), steps=steps, batch_size=_BATCH, log_every_steps=steps
    )
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=out) as name, silenced():
        plan, views = ViewPlan(4, 0, ("flip", "translate"), False), Path(name) / "views"
        begin = clocks()
        store_outputs(views, ViewedImages(train, None), teacher, "untrained", plan, {})
        storing = 1e3 * float((clocks() - begin)[1]) / (images * plan.views)
        sides: dict[str, Any] = {"running": teacher, "stored": StoredTeacher(open_outputs(views), train)}
        for number in range(rounds):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                folder = Path(name) / f"{side}{number}"
                begin = clocks()
                train_classifier(train, None, space, settings, folder, CPU, plan.augmentation, sides[side])
                spent.setdefault(side, []).append(float((clocks() - begin)[1]))
    step = {side: 1e3 * float(np.median(seconds)) / steps for side, seconds in spent.items()}
    ratios = [running / stored for running, stored in zip(spent["running"], spent["stored"], strict=True)]
    return {
        "student": f"{STUDENT}, {student_adds / 1e6:.1f} M multiply-adds an image of {_SIDE} x {_SIDE}",
        "teacher": f"{TEACHER} of width 2, {teacher_adds / 1e6:.1f} M multiply-adds",
        "teacher / student": teacher_adds / student_adds,
        "running teacher, CPU ms a step": step["running"],
        "stored outputs, CPU ms a step": step["stored"],
        "running / stored": float(np.median(ratios)),
        "least running / stored of a round": min(ratios),
        "storing one view, CPU ms": storing,
        "storing one view / what it saves each time it is seen": storing * _BATCH / (step["running"] - step["stored"]),
    }


def _untrained(network: Any, space: ClassLabels) -> ClassifierPredictor:
    torch.manual_seed(0)
    card = {"label_space": space.to_json(), "channels": 3, "resolution_px": _SIDE, "source_digest": "untrained"}
    return ClassifierPredictor(card, build_student(network, 3, _SIDE, space), space, CPU)


def error(seeds: int, steps: int, teacher_steps: int, out: Path | None) -> dict[str, Any]:
    """Validation error in per cent, mean and spread over seeds, and the paired difference from the running teacher."""
    data = load_real("digits", real_per_class=10)
    errors: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=out) as name, silenced():
        place = Path(name)
        basis = ClassifierSettings(steps=teacher_steps)
        found = train_classifier(
            data.train, data.val, data.label_space, basis, place / "teacher", CPU, data.allowed_augmentations
        )
        teacher = load_classifier(place / "teacher", CPU)
        allowed = tuple(data.allowed_augmentations)
        sides: dict[str, tuple[Any, tuple[str, ...]]] = {"labels alone": (None, allowed), RUNNING: (teacher, allowed)}
        for views, changed in ((1, ()), *((views, allowed) for views in VIEWS)):
            text = f"{views} view{'' if views == 1 else 's'}{'' if changed else ' as it is'}"
            store_outputs(
                place / text, ViewedImages(data.train, None), teacher, "", ViewPlan(views, 0, changed, False), {}
            )
            sides[text] = StoredTeacher(open_outputs(place / text), data.train), changed
        for seed in range(seeds):
            for side, (given, changed) in sides.items():
                method = METHODS.choose("none" if given is None else "blkd")
                settings = ClassifierSettings(
                    network=_SMALL_STUDENT, method=method, steps=steps, seed=seed, augmentation=changed
                )
                folder = place / f"{side}, {seed}"
                result = train_classifier(data.train, data.val, data.label_space, settings, folder, CPU, allowed, given)
                errors.setdefault(side, []).append(100 * float(result["val_score"]))
    table: dict[str, Any] = {
        "images": f"{len(data.train)} labelled digits of 16 x 16, {len(data.val)} validation images",
        "teacher": f"{basis.network}, {100 * float(found['val_score']):.2f} %",
        "student": f"{_SMALL_STUDENT} of width 0.5, {steps} steps, {seeds} seeds",
    }
    base = np.array(errors[RUNNING])
    for side, values in errors.items():
        table[f"{side}, %"] = f"{np.mean(values):.2f} ± {_deviation(values):.2f}"
        if "view" in side:
            apart = np.array(values) - base
            table[f"{side} - running teacher, %"] = f"{apart.mean():+.2f} ± {_deviation(apart) / seeds**0.5:.2f}"
    return table


def _deviation(values: Any) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def compare(small: bool, out: Path | None) -> dict[str, Any]:
    """Both tables; small: a few seconds, and the numbers say little."""
    begin = time.perf_counter()
    tables = {"cost": cost(*((1, 2, 32) if small else (5, 40, 512)), out)}
    say(f"cost measured in {time.perf_counter() - begin:.0f} s; now the errors of {3 + len(VIEWS)} students a seed")
    return {**tables, "error": error(*((1, 2, 2) if small else (SEEDS, 600, 900)), out)}

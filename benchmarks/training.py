"""The classifiers' trainer against a plain loop by hand: processor time for each image.

ResNet-20 at 32 x 32 with labels alone, with a ResNet-56's soft labels (blkd), and with the similarities of its last
maps beside the labels (sp).  The plain loop is what one writes in an afternoon: the same networks in channels_last, a
permutation of a tensor in memory, SGD with Nesterov momentum and a cosine; no log, check, checkpoint or resume.
Both take turns, without augmentation; noise and untrained networks, since neither changes the time.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.measuring import clocks
from classifiers import STUDENTS, ClassifierPredictor, ClassifierSettings, train_classifier
from classifiers.networks import build_student
from image_data.labels import ClassLabels
from image_data.sources import ArraySource
from layers.features import feature_paths
from runtime.progress import silenced
from training.methods import METHODS

METHODS_MEASURED = ("none", "blkd", "sp")
_STUDENT, _TEACHER = "resnet20", "resnet56"
_SIDE, _CLASSES, _BATCH, _LR = 32, 10, 64, 0.05


def compare(small: bool, out: Path | None) -> dict[str, Any]:
    """A table a method: images for each processor second on both sides, and ours over plain; small: says little."""
    rounds, steps, images = (1, 2, 64) if small else (5, 30, 2048)
    return {method: _one(method, rounds, steps, images, out) for method in METHODS_MEASURED}


def _one(name: str, rounds: int, steps: int, images: int, out: Path | None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    space = ClassLabels(tuple(map(str, range(_CLASSES))))
    pixels = rng.integers(0, 256, (images, 3, _SIDE, _SIDE), dtype=np.uint8)
    train = ArraySource(pixels, rng.integers(0, _CLASSES, images))
    method = METHODS.choose(name)
    settings = ClassifierSettings(
        network=STUDENTS.choose(_STUDENT), method=method, steps=steps, batch_size=_BATCH, log_every_steps=steps
    )
    torch.manual_seed(0)
    network = build_student(_TEACHER, 3, _SIDE, space)
    card = {"label_space": space.to_json(), "channels": 3, "resolution_px": _SIDE, "source_digest": "untrained"}
    teacher = None if name == "none" else ClassifierPredictor(card, network, space, torch.device("cpu"))
    tensors = torch.from_numpy(pixels), torch.from_numpy(train.labels)
    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory(dir=out) as place, silenced():
        for number in range(-1, rounds):  # the first round warms up
            folder = Path(place) / str(number)
            sides: dict[str, Callable[[], Any]] = {
                "ours": lambda folder=folder: train_classifier(  # type: ignore[misc]
                    train, None, space, settings, folder, torch.device("cpu"), (), teacher
                ),
                "plain": lambda: _plain(
                    name, build_student(_STUDENT, 3, _SIDE, space), network, tensors, steps, method
                ),
            }
            for side in list(sides)[:: 1 if number % 2 else -1]:
                begin = clocks()
                sides[side]()
                spent[side] += [float((clocks() - begin)[1])] if number >= 0 else []
    ratios = [plain / ours for ours, plain in zip(spent["ours"], spent["plain"], strict=True)]
    rate = {side: steps * _BATCH / float(np.median(seconds)) for side, seconds in spent.items()}
    return {
        "networks": f"{_STUDENT} at {_SIDE} x {_SIDE}" + (f", teacher {_TEACHER}" if teacher else ""),
        "ours, images a CPU second": rate["ours"],
        "plain, images a CPU second": rate["plain"],
        "ours / plain": float(np.median(ratios)),
        "of single rounds": ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios)),
    }


def _plain(name: str, student: nn.Module, teacher: nn.Module, data: Any, steps: int, method: Any) -> None:
    """The loop by hand."""
    pixels, labels = data
    student = student.to(memory_format=torch.channels_last).train()
    teacher = teacher.to(memory_format=torch.channels_last).eval()
    optimizer = torch.optim.SGD(
        student.parameters(), lr=_LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    maps: dict[nn.Module, torch.Tensor] = {}
    if name == "sp":
        for network in (student, teacher):
            path = feature_paths(network)["stage3"]
            network.get_submodule(path).register_forward_hook(lambda module, _, map_: maps.update({module: map_}))
    order = torch.randperm(len(pixels))
    for step in range(steps):
        rows = order[torch.arange(step * _BATCH, (step + 1) * _BATCH) % len(order)]
        images = pixels[rows]
        logits = student(images)
        loss = functional.cross_entropy(logits, labels[rows])
        if name != "none":
            with torch.no_grad():
                soft = teacher(images)
        if name == "blkd":
            heat = method.arguments()["temperature"]
            distance = functional.kl_div(
                functional.log_softmax(logits / heat, 1), functional.softmax(soft / heat, 1), reduction="batchmean"
            )
            loss = 0.5 * loss + 0.5 * heat**2 * distance
        if name == "sp":
            ours, other = (
                functional.normalize(rows @ rows.T, dim=1) for rows in (map_.flatten(1) for map_ in maps.values())
            )
            loss = loss + (other - ours).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = _LR * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    for network in (student, teacher):
        for module in network.modules():
            module._forward_hooks.clear()

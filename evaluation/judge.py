"""The independent judge: features for Fréchet and kernel distances, and label agreement, where Inception is no help.

A score is never computed with the network that filtered; the judge has its own architecture and seed and is named in
every score that it gives.  Training resumes exactly: a kill at any moment and the same call give the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluation.blocks import FixedBlocks
from evaluation.judge_network import FEATURE_WIDTH, JudgeNetwork
from image_data.augment import augment, check_augmentations
from image_data.batches import BatchOrder
from image_data.labels import label_space_from_json
from image_data.quarter_turns import learns_turns, outputs_for, turn
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.errors import UserError
from runtime.seeds import seed_step, torch_generator
from training.loop import Cadence, TrainingLoop, finish_training
from training.model_folder import ModelFolder
from training.schedules import cosine, set_learning_rate, warm_up
from training.state import NamedState

ARCHITECTURE = "judge-layernorm-gelu"
PREPROCESSING = "uint8 / 127.5 - 1, no resize"
FOLDER = ModelFolder("judge", "train the judge again", digest="digest", of_tensors=True)


class Judge:
    """A trained judge.  Takes uint8 N x C x H x W (tensor or array); everything comes back on the CPU."""

    metric_name = "FD-judge"
    feature_width = FEATURE_WIDTH

    def __init__(self, network: JudgeNetwork, card: dict[str, Any], device: torch.device) -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.card, self.device = card, device
        self.label_space: LabelSpace = label_space_from_json(card["label_space"])
        shape = (card["channels"], card["resolution_px"], card["resolution_px"])
        self._blocks = FixedBlocks(self._forward, shape, device)

    @property
    def protocol(self) -> dict[str, Any]:
        """What decides the features, for the record beside each score."""
        return {
            "feature_network": ARCHITECTURE,
            "feature_network_digest": self.card["digest"],
            "feature_width": self.feature_width,
            "preprocessing": PREPROCESSING,
            "batch": self._blocks.rows,
            "dtype": "float32, moments in float64",
        }

    def features(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """float32 N x 64: the pooled maps before the head."""
        return self._blocks(images)[:, :FEATURE_WIDTH]

    def __call__(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """float32 N x C logits, or N x d predictions in the user's units."""
        outputs = self._blocks(images)[:, FEATURE_WIDTH:]
        if self.label_space.kind == "classes":
            return outputs
        return torch.from_numpy(self.label_space.decode(outputs).reshape(len(outputs), -1).astype(np.float32))

    predictions = __call__  # as a predictor has it

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.network(normalise(images)), dim=1)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 .. 255 -> float32 -1 .. 1."""
    return images.float() / 127.5 - 1.0


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge is trained; the defaults suit about a thousand small images."""

    steps: int = 900
    batch_size: int = 64
    learning_rate: float = 3e-3  # peak; short warm-up, then a cosine to zero
    weight_decay: float = 0.05
    checkpoint_every: int = 500  # steps; also every 30 s


def train_judge(
    data: ImageSource,
    label_space: LabelSpace,
    out: Path,
    device: torch.device,
    seed: int,
    *,
    settings: JudgeSettings | None = None,
    allowed_augmentations: Sequence[str] = (),
    trained_on: dict[str, Any] | None = None,
) -> Path:
    """Train a judge on all of `data` into the folder `out`; on a finished folder return at once.

    Cross entropy (with smoothed labels) for classes (of quarter turns where there is one class), smooth L1 in the
    network's units for continuous labels; AdamW.
    `out` gets stats.jsonl, weights.safetensors and, last, card.json.
    """
    out, settings = Path(out), settings or JudgeSettings()
    if FOLDER.finished(out):
        return out
    shape = _check_data(data, label_space)
    augmentations = check_augmentations(allowed_augmentations, "the judge's training images")
    seed_step(seed, "judge-initial-weights", 0)
    network = JudgeNetwork(shape[1], shape[0], outputs_for(label_space)).to(device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    order = BatchOrder(len(data), settings.batch_size, seed, "judge-batches")
    encoded = label_space.encode(data.labels)
    state = NamedState(network=network, optimizer=optimizer)
    loop = TrainingLoop("judge", out, settings.steps, state, Cadence(50, settings.checkpoint_every))
    for step in loop:
        rows = order.rows(step)
        images = torch.from_numpy(np.ascontiguousarray(data.images(rows)))
        images = augment(images, augmentations, torch_generator(seed, "judge-augment", step))
        wanted = encoded[rows]
        if learns_turns(label_space):
            images, wanted = turn(images, torch_generator(seed, "judge-turns", step))
        loss = _loss(network(normalise(images.to(device)))[1], wanted.to(device), label_space)
        set_learning_rate(optimizer, _rate(settings, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loop.log(step, {"loss": loss})
    recipe = {**asdict(settings), "seed": seed, "augmentations": list(augmentations)}
    FOLDER.write(
        out, _card(label_space, shape, recipe, {"images": len(data), **(trained_on or {})}), network.state_dict()
    )
    finish_training(out)
    return out


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_judge(folder: Path, device: torch.device) -> Judge:
    """A judge written by `train_judge`; a UserError names the file that is missing or damaged."""
    card = FOLDER.read_card(folder)

    def build() -> nn.Module:
        outputs = outputs_for(label_space_from_json(card["label_space"]))
        return JudgeNetwork(card["resolution_px"], card["channels"], outputs)

    network: Any = FOLDER.load(folder, card, build)
    return Judge(network, card, device)


def _check_data(data: ImageSource, label_space: LabelSpace) -> tuple[int, int, int]:
    if not len(data):
        raise UserError("the judge has no images to learn from; give real data with images.")
    label_space.check(data.labels, "the judge's training labels")
    channels, height, width = data.images(np.arange(1)).shape[1:]
    if height != width or height < 8:
        raise UserError(f"the judge reads square images of 8 pixels or more, not {height} x {width}; resize them.")
    return int(channels), int(height), int(width)


def _loss(outputs: torch.Tensor, encoded: torch.Tensor, label_space: LabelSpace) -> torch.Tensor:
    if label_space.kind == "classes":
        return nn.functional.cross_entropy(outputs, encoded, label_smoothing=0.05)
    return nn.functional.smooth_l1_loss(outputs, encoded, beta=0.05)


def _rate(settings: JudgeSettings, step: int) -> float:
    """A short warm-up, times a cosine over all steps."""
    factor = warm_up(step, max(1, min(50, settings.steps // 10)))
    return settings.learning_rate * factor * cosine(step, settings.steps)


def _card(
    label_space: LabelSpace, shape: tuple[int, int, int], recipe: dict[str, Any], trained_on: dict[str, Any]
) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURE,
        "resolution_px": shape[1],
        "channels": shape[0],
        "label_space": label_space.to_json(),
        "feature_width": FEATURE_WIDTH,
        "preprocessing": PREPROCESSING,
        "settings": recipe,
        "trained_on": trained_on,
    }

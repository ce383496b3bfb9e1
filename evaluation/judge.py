"""The independent judge: features for Fréchet and kernel distances, and label agreement, where Inception is no help.

A score is never computed with the network that filtered; the judge has its own architecture and seed and is named in
every score that it gives.  Training resumes exactly: a kill at any moment and the same call give the same weights.
"""

from __future__ import annotations

import math
import time
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
from runtime.digests import tensors_sha256
from runtime.errors import UserError
from runtime.progress import progress
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.seeds import seed_step, torch_generator
from runtime.tensor_files import read_tensors, write_tensors
from training.checkpoints import CheckpointFolder, load_module, load_optimizer, module_tensors, optimizer_tensors
from training.stats_log import StatsLog

ARCHITECTURE = "judge-layernorm-gelu"
PREPROCESSING = "uint8 / 127.5 - 1, no resize"
_CARD, _WEIGHTS, _STATS = "card.json", "weights.safetensors", "stats.jsonl"
_CHECKPOINT_SECONDS = 30.0


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
    if (out / _CARD).exists():
        return out
    shape = _check_data(data, label_space)
    augmentations = check_augmentations(allowed_augmentations, "the judge's training images")
    seed_step(seed, "judge-initial-weights", 0)
    network = JudgeNetwork(shape[1], shape[0], outputs_for(label_space)).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    out.mkdir(parents=True, exist_ok=True)
    _train(data, label_space, network, optimizer, settings, seed, augmentations, out, device)
    recipe = {**asdict(settings), "seed": seed, "augmentations": list(augmentations)}
    _save(out, network, label_space, shape, recipe, {"images": len(data), **(trained_on or {})})
    CheckpointFolder(out / "checkpoints").remove()
    return out


def _train(
    data: ImageSource,
    label_space: LabelSpace,
    network: JudgeNetwork,
    optimizer: torch.optim.Optimizer,
    settings: JudgeSettings,
    seed: int,
    augmentations: Sequence[str],
    out: Path,
    device: torch.device,
) -> None:
    """The loop, from the newest checkpoint to the last step."""
    checkpoints, start = CheckpointFolder(out / "checkpoints"), 0
    if (saved := checkpoints.load_latest()) is not None:
        start = saved.step
        load_module("network", network, saved.tensors)
        load_optimizer("optimizer", optimizer, saved.tensors)
    log = StatsLog(out / _STATS, range(start + 1, settings.steps + 1))
    order = BatchOrder(len(data), settings.batch_size, seed, "judge-batches")
    encoded = label_space.encode(data.labels)
    last_save = time.monotonic()
    network.train()
    with progress("judge", settings.steps, start) as bar:
        for step in range(start, settings.steps):
            _set_rate(optimizer, settings, step)
            rows = order.rows(step)
            images = torch.from_numpy(np.ascontiguousarray(data.images(rows)))
            images = augment(images, augmentations, torch_generator(seed, "judge-augment", step))
            wanted = encoded[rows]
            if learns_turns(label_space):
                images, wanted = turn(images, torch_generator(seed, "judge-turns", step))
            loss = _loss(network(normalise(images.to(device)))[1], wanted.to(device), label_space)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done = step + 1
            if done % 50 == 0 or done == settings.steps:
                log.write({"step": done, "loss": float(loss.detach())})
            bar.advance(1)
            due = done % settings.checkpoint_every == 0 or time.monotonic() - last_save > _CHECKPOINT_SECONDS
            if due and done < settings.steps:
                tensors = {**module_tensors("network", network), **optimizer_tensors("optimizer", optimizer)}
                checkpoints.save(done, tensors, {})
                last_save = time.monotonic()


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_judge(folder: Path, device: torch.device) -> Judge:
    """A judge written by `train_judge`; a UserError names the file that is missing or damaged."""
    folder = Path(folder)
    try:
        card = read_sealed_json(folder / _CARD, "restore it or train the judge again")
        network = JudgeNetwork(
            card["resolution_px"], card["channels"], outputs_for(label_space_from_json(card["label_space"]))
        )
        tensors = read_tensors(folder / _WEIGHTS)
        if tensors_sha256(tensors) != card["digest"]:
            raise UserError(f"{folder / _WEIGHTS} does not match the digest in its card; train the judge again.")
        network.load_state_dict(tensors)
        return Judge(network, card, device)
    except MissingFile as error:
        raise UserError(f"{folder} holds no finished judge ({_CARD} is missing); train one first.") from error
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no finished judge ({_WEIGHTS} is missing); train one first.") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{folder} is not a judge ({printable(error)}); train one again.") from error


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


def _set_rate(optimizer: torch.optim.Optimizer, settings: JudgeSettings, step: int) -> None:
    warmup = max(1, min(50, settings.steps // 10))
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1.0, (step + 1) / warmup) * cosine


def _save(
    out: Path,
    network: JudgeNetwork,
    label_space: LabelSpace,
    shape: tuple[int, int, int],
    settings: dict[str, Any],
    trained_on: dict[str, Any],
) -> None:
    tensors = network.state_dict()
    write_tensors(out / _WEIGHTS, tensors)
    card = {
        "architecture": ARCHITECTURE,
        "resolution_px": shape[1],
        "channels": shape[0],
        "label_space": label_space.to_json(),
        "feature_width": FEATURE_WIDTH,
        "preprocessing": PREPROCESSING,
        "digest": tensors_sha256(tensors),
        "settings": settings,
        "trained_on": trained_on,
        "format_version": 1,
    }
    write_sealed_json(out / _CARD, card)

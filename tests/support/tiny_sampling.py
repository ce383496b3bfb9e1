"""Small real parts for the tests of sampler and store: an untrained BigGAN, a ratio and a predictor of the image.

Importable by worker processes; `TinyParts(folder)` is the picklable `make_parts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace, TeacherCard
from runtime.errors import UserError
from teacher_sampler import load_teacher
from teacher_sampler.networks import TEACHERS
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.settings import SamplerSettings
from training.generator_folder import save_generator

CLASSES = ClassLabels(("zero", "one", "two"))
ANGLES = ContinuousLabels(low=-90.0, high=90.0, unit="degrees")


def save_tiny_teacher(folder: Path, space: LabelSpace, resolution_px: int = 16, width: int = 4) -> Path:
    """An untrained 16x16 grey BigGAN with some spread between labels and samples."""
    arguments = {
        "resolution_px": resolution_px,
        "channels": 1,
        "width": width,
        "latent_dim": 9,
        "label_dim": 8,
        "spectral_normed": False,
    }
    torch.manual_seed(5)
    network = TEACHERS.get("biggan")(space, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.12 * torch.randn_like(parameter))
    card = TeacherCard(
        architecture="biggan",
        arguments=arguments,
        resolution_px=resolution_px,
        channels=1,
        label_space=space.to_json(),
        latent={"distribution": "normal", "dimension": 9},
        truncation={},
        source_digest="",
        licence="none",
        allowed_augmentations=[],
    )
    save_generator(folder, card, network)
    return folder


class BrightnessRatio:
    """r = exp(a (mean brightness - 1/2)) with `a` depending on the label; 0 for `dead` class labels."""

    def __init__(self, dead: tuple[int, ...] = ()) -> None:
        self.dead = dead
        self.card: dict[str, Any] = {"architecture": "brightness"}

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        brightness = images.float().mean(dim=(1, 2, 3)) / 255.0
        steepness = torch.from_numpy(6.0 + np.asarray(labels, dtype=np.float64) % 3).float()
        ratio = torch.exp(steepness * (brightness - 0.5))
        return torch.where(torch.from_numpy(np.isin(labels, self.dead)), torch.zeros(()), ratio)


class PatchPredictor:
    """A fixed linear map of the pixels: logits for classes, one value for continuous labels."""

    def __init__(self, outputs: int, seed: int = 3) -> None:
        self.weights = torch.randn(256, outputs, generator=torch.Generator().manual_seed(seed))
        self.card: dict[str, Any] = {"architecture": "patch"}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float().flatten(1) / 255.0) @ self.weights

    predictions = __call__  # the labels' range is [0, 1] of the user's units


@dataclass(frozen=True)
class TinyAcceptance:
    """Rejection sampling as `filters.acceptance` does it, without that room."""

    needs_ratio: bool = True
    quantile: float = 0.99

    def ceiling(self, r: np.ndarray, label: str) -> float:
        if r.max() <= 0:
            raise UserError(f"label {label}: every pilot ratio is 0.")
        return float(np.quantile(r, self.quantile))

    def accept(self, uniforms: np.ndarray, r: np.ndarray, ceiling: float | np.ndarray) -> np.ndarray:
        if not self.needs_ratio:
            return np.ones(len(r), dtype=bool)
        return uniforms <= r / ceiling


def class_error(output: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    return torch.nn.functional.cross_entropy(output, torch.from_numpy(labels), reduction="none").numpy()


def value_error(output: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    difference = output.numpy().reshape(len(labels), -1) - labels.reshape(len(labels), -1)
    return np.linalg.norm(difference, axis=1).astype(np.float32)


@dataclass(frozen=True)
class TinyParts:
    """`make_parts` over a saved teacher."""

    teacher: Path
    with_filter: bool = True
    with_predictor: bool = True
    dead: tuple[int, ...] = ()

    def __call__(self) -> SamplingParts:
        teacher = load_teacher(self.teacher, torch.device("cpu"))
        classes = teacher.label_space.kind == "classes"
        return SamplingParts(
            teacher=teacher,
            density_ratio=BrightnessRatio(self.dead) if self.with_filter else None,
            predictor=make_predictor(teacher.label_space.width) if self.with_predictor else None,
            acceptance=TinyAcceptance(needs_ratio=self.with_filter),
            error=class_error if classes else value_error,
        )


def make_predictor(outputs: int, seed: int = 3) -> PatchPredictor:
    return PatchPredictor(outputs, seed)


def tiny_settings(**changes: Any) -> SamplerSettings:
    """Blocks of 32, units of 64 candidates."""
    fixed = {
        "seed": 11,
        "block_size": 32,
        "unit_candidates": 64,
        "pilot_candidates": 96,
        "ceiling_quantile": 0.99,
        "teacher_digest": "t" * 64,
        "filter_digest": "f" * 64,
        "predictor_digest": "p" * 64,
    }
    return SamplerSettings(**{**fixed, **changes})


def class_plan(per_label: int = 40) -> LabelPlan:
    return LabelPlan.classes(CLASSES, per_label)


def angle_plan(per_label: int = 6, labels: int = 7) -> LabelPlan:
    return LabelPlan.values(ANGLES, np.linspace(-80.0, 80.0, labels), per_label)


def angle_settings(**changes: Any) -> SamplerSettings:
    """Groups of 3 labels, 20 candidates of each in a unit: blocks cut across labels, the last group is short."""
    fixed = {"group_size": 3, "unit_candidates": 20, "pilot_candidates": 16, "ceiling_neighbours": 3}
    return tiny_settings(**{**fixed, **changes})


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every sealed file of a dataset by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


class CountingTeacher:
    """A black box without latents: pixel p of candidate k of label y is the level (7 k + 50 y + p) mod 256, exactly."""

    def __init__(self, resolution_px: int = 32, channels: int = 3) -> None:
        self.label_space = CLASSES
        self.card = TeacherCard(
            architecture="counting",
            arguments={},
            resolution_px=resolution_px,
            channels=channels,
            label_space=CLASSES.to_json(),
            latent={},
            truncation={},
            source_digest="",
            licence="none",
            allowed_augmentations=[],
        )

    def latents(self, keys: np.ndarray, seed: int) -> None:
        return None

    def levels(self, labels: np.ndarray, k: np.ndarray) -> np.ndarray:
        size, channels = self.card.resolution_px, self.card.channels
        pixels = np.arange(channels * size * size)[None]
        return ((7 * k + 50 * labels)[:, None] + pixels).reshape(-1, channels, size, size) % 256

    def generate(
        self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int = 0
    ) -> torch.Tensor:
        return torch.from_numpy((self.levels(labels, keys[:, 1]) / 127.5 - 1.0).astype(np.float32))

    def candidates(self, labels: np.ndarray) -> None:
        """Without end."""
        return None


def counting_parts() -> SamplingParts:
    return SamplingParts(CountingTeacher(), None, None, TinyAcceptance(needs_ratio=False), class_error)

"""Training of a light student generator from a teacher's stored images and latents.

The student copies (z, y) -> image: it is compared with the stored teacher image of the same latents and label in the
pixels and in the features of a discriminator that is trained along with it.  The teacher itself is not needed.
Killed at any moment and called again, the training ends with the same weights on a CPU.  Several ranks share each
batch; the main one holds the average and writes.  See Chang and Lu (2020).

Pairs that a filter accepted are a biased sample of z, while a finished student is given all of z.  On the digits,
keeping the best 60 % of each class by label error raised the student's Frechet distance from 10.3 to 14.1 (the kept
teacher images themselves: from 7.6 to 12.3) and its label accuracy from 99.6 to 99.9 %: less variety, more typical.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from image_data.labels import label_space_from_json
from image_data.sources import ImageSource
from interfaces import LabelSpace, TeacherCard
from interfaces.white_box import WhiteBoxTerms
from runtime.errors import UserError
from runtime.progress import progress
from runtime.ranks import ALONE, Ranks
from runtime.settings import as_json
from student_trainer import losses
from student_trainer.data import PairSource, StudentData
from student_trainer.networks import GENERATORS
from student_trainer.settings import StudentSettings
from student_trainer.training_state import TrainingState, build_student, network_arguments
from training.checkpoints import CheckpointFolder
from training.generator_folder import CARD_FILE, NetworkGenerator, load_weights, read_card, save_generator
from training.stats_log import StatsLog

EVALUATION_BATCH = 250


def train_student(
    pairs: PairSource,
    real: ImageSource | None,
    label_space: LabelSpace,
    settings: StudentSettings,
    out: Path,
    device: torch.device,
    white_box: WhiteBoxTerms | None = None,
    allowed_augmentations: Sequence[str] = (),
    trained_on: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Train a student and write it to `out` as a generator's folder; returns `out`.

    pairs: uint8 N x C x H x W teacher images with labels (user's units) and float32 N x z latents.  real: the images
    of the second adversarial game, or None: then teacher images stand in.  A finished folder is returned at once, an
    unfinished one is continued.  `trained_on` goes into the card, its entry "licence" as the student's licence.
    UserError: pairs without latents, labels outside the space, images that no network here can make, divergence.
    """
    out = Path(out)
    if (out / CARD_FILE).exists():
        return out
    data = StudentData(pairs, real, label_space, settings, device, allowed_augmentations, ranks)
    state = TrainingState(data, settings, white_box)
    folder = CheckpointFolder(out / "checkpoints")
    first = state.begin(folder)
    log = StatsLog(out / "stats.jsonl", range(first + 1, settings.steps + 1), ranks.main)
    saved_at = time.monotonic()
    with progress("train-student", settings.steps, first) as bar:
        for step in range(first, settings.steps):
            scalars = state.train_step(step)
            done = step + 1
            note = ""
            if done % settings.log_every_steps == 0 or done == settings.steps:
                values = _finite(ranks.mean(scalars), done)
                log.write({"step": done, **values})
                note = f"loss {values['loss']:.3f}"
            if (
                ranks.main
                and done < settings.steps
                and (
                    done % settings.checkpoint_every_steps == 0
                    or time.monotonic() - saved_at >= settings.checkpoint_every_seconds
                )
            ):
                state.save(folder, done)
                saved_at = time.monotonic()
            bar.advance(1, note)
    if ranks.main:
        student = state.finish()
        save_generator(out, _card(data, settings, student, trained_on or {}), student)
        folder.remove()
    ranks.wait()
    return out


def check_student(
    pairs: PairSource,
    real: ImageSource | None,
    label_space: LabelSpace,
    settings: StudentSettings,
    allowed_augmentations: Sequence[str] = (),
) -> nn.Module:
    """The untrained student; raises the UserError with which `train_student` would refuse all this."""
    data = StudentData(pairs, real, label_space, settings, torch.device("cpu"), allowed_augmentations)
    return build_student(settings, label_space, data.image_shape, data.latent_dim)


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_student(folder: Path, device: torch.device) -> NetworkGenerator:
    """The student generator of a finished folder, as a Teacher; UserError where it is none or is damaged."""
    card = read_card(Path(folder))
    build = GENERATORS.get(card.architecture)
    try:
        network = build(**card.arguments)
    except TypeError as error:
        raise UserError(
            f"{Path(folder) / CARD_FILE} does not fit the network {card.architecture} ({error})."
        ) from error
    load_weights(Path(folder), card, network)
    return NetworkGenerator(card, network, label_space_from_json(card.label_space), device)


def _finite(scalars: dict[str, torch.Tensor], step: int) -> dict[str, float]:
    """The scalars of a line of the log; a UserError where the training has diverged."""
    values = {name: float(value) for name, value in scalars.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"train-student: {broken[0]} is no longer a finite number at step {step}; lower lr or the weights."
        )
    return {name: round(value, 6) for name, value in values.items()}


def paired_quality(data: StudentData, student: nn.Module) -> dict[str, Any]:
    """L1 (of images in [-1, 1]) and PSNR (dB, mean over images) on the held-out pairs; {} where there are none."""
    rows = data.held_out
    if not len(rows):
        return {}
    distance, ratio = 0.0, 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_BATCH):
            batch = data.read_pairs(rows[start : start + EVALUATION_BATCH])
            made = student(batch.latents, batch.encoded)
            distance += float(losses.pixel_l1(made, batch.images)) * len(made)
            ratio += float(losses.peak_signal_to_noise(made, batch.images).sum())
    return {"paired_l1": distance / len(rows), "paired_psnr_db": ratio / len(rows), "paired_images": len(rows)}


def _card(data: StudentData, settings: StudentSettings, student: nn.Module, trained_on: dict[str, Any]) -> TeacherCard:
    return TeacherCard(
        architecture=settings.generator.name,
        arguments=network_arguments(settings, data.label_space, data.image_shape, data.latent_dim),
        resolution_px=data.image_shape[1],
        channels=data.image_shape[0],
        label_space=data.label_space.to_json(),
        latent={"distribution": "normal", "dimension": data.latent_dim},
        truncation={} if settings.truncation is None else {"std": settings.truncation},
        source_digest="",
        licence=str(trained_on.get("licence", "unknown")),
        allowed_augmentations=list(data.allowed_augmentations),
        measured_quality=paired_quality(data, student),
        trained_on={
            **trained_on,
            "pairs": len(data.kept),
            "real_images": 0 if data.real is None else len(data.real),
            "images_seen": settings.steps * settings.batch_size,
            "settings": as_json(settings),
        },
    )

"""From an imported teacher to its folder: standing statistics where asked for, a first image, files, and the card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from image_data.seen_names import SEEN_FILE
from interfaces import LabelSpace, TeacherCard
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.seeds import label_bits, numpy_generator, torch_generator
from teacher_sampler.importers.registry import ImportedTeacher, ImportRequest
from teacher_sampler.loading import load_teacher
from training.ema import accumulate_standing_statistics
from training.generator_folder import FOLDER, NetworkGenerator, save_generator
from training.model_folder import CARD_FILE

_PROBE = 2  # images


@dataclass(frozen=True)
class StandingStatistics:
    """Batch-norm statistics from `batches` forward passes of `batch_size` fresh images with labels drawn evenly."""

    batches: int
    batch_size: int = 64
    seed: int = 0


def teacher_card(imported: ImportedTeacher, request: ImportRequest, notes: dict[str, Any]) -> TeacherCard:
    """The card without its source digest."""
    return TeacherCard(
        architecture=imported.architecture,
        arguments=dict(imported.arguments),
        resolution_px=imported.resolution_px,
        channels=imported.channels,
        label_space=imported.label_space.to_json(),
        latent=dict(imported.latent),
        truncation=dict(imported.truncation),
        source_digest="",
        licence=imported.licence if request.licence == "unknown" else request.licence,
        allowed_augmentations=list(request.augmentations or imported.augmentations),
        trained_on={**imported.notes, **notes},
    )


def freeze_statistics(imported: ImportedTeacher, standing: StandingStatistics) -> None:
    """Sampling with each batch's own statistics, as BigGAN's authors often do, frozen into fixed ones first.

    UserError where there is no batch norm to freeze, or no network at all.
    """
    network = imported.network
    if network is None or not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        raise UserError(f"--standing-batches: {imported.architecture} has no batch statistics; leave it out.")
    scale = float(imported.truncation.get("std", 1.0))
    dimension = int(imported.latent["dimension"])

    def draw(index: int) -> tuple[torch.Tensor, ...]:
        generator = torch_generator(standing.seed, "standing-latents", index)
        latents = torch.randn(standing.batch_size, dimension, generator=generator) * scale
        rng = numpy_generator(standing.seed, "standing-labels", index)
        return latents, imported.label_space.encode(_drawn_labels(imported.label_space, standing.batch_size, rng))

    accumulate_standing_statistics(network, draw, standing.batches, settle=0, biased=True)


def _drawn_labels(space: LabelSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    if space.kind == "classes":
        return rng.integers(space.width, size=count)
    return space.decode(torch.from_numpy(rng.random((count, space.width))))


def check_first_images(imported: ImportedTeacher, card: TeacherCard) -> None:
    """UserError where the network does not give finite images of the card's shape."""
    if imported.network is not None:
        teacher = NetworkGenerator(card, imported.network, imported.label_space, torch.device("cpu"))
        _probe(teacher, imported.label_space, card, "the checkpoint")


def write_teacher(folder: Path, imported: ImportedTeacher, card: TeacherCard) -> TeacherCard:
    """Write weights or files, then the card, which stays only where the folder loads and gives its first images.

    Returns the card with its source digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if imported.network is not None:
        card = save_generator(folder, _with_seen(folder, card), imported.network)
    elif imported.write is not None:
        digest = imported.write(folder)
        card = TeacherCard(**FOLDER.write_card(folder, asdict(_with_seen(folder, card)), digest))
    else:
        raise ValueError("an imported teacher has a network or a writer")
    try:
        _probe(load_teacher(folder, torch.device("cpu")), imported.label_space, card, str(folder))
    except BaseException:
        (folder / CARD_FILE).unlink()
        raise
    return card


def _with_seen(folder: Path, card: TeacherCard) -> TeacherCard:
    """The card names the file of what the teacher has seen, where there is one (ready images, a variant of our own)."""
    trained_on = {name: value for name, value in card.trained_on.items() if name != "seen"}
    if (folder / SEEN_FILE).is_file():
        trained_on["seen"] = file_sha256(folder / SEEN_FILE)
    return replace(card, trained_on=trained_on)


def _probe(teacher: Any, space: LabelSpace, card: TeacherCard, where: str) -> None:
    label = np.zeros(1, dtype=np.int64) if space.kind == "classes" else space.decode(torch.full((1, space.width), 0.5))
    labels = np.repeat(label, _PROBE, axis=0)
    available = teacher.candidates(label)
    if available is not None and not available[0]:
        return  # a finite teacher may lack just this label
    keys = np.stack([label_bits(labels), np.zeros(_PROBE, dtype=np.int64)], axis=1)
    images = teacher.generate(teacher.latents(keys, 0), labels, keys, 0)
    shape = (_PROBE, card.channels, card.resolution_px, card.resolution_px)
    if tuple(images.shape) != shape:
        raise UserError(
            f"{where} gives images of shape {tuple(images.shape)} where {shape} was expected; check --arch."
        )
    if not bool(torch.isfinite(images).all()):
        raise UserError(f"{where} gives pixels that are not numbers; get the checkpoint again.")

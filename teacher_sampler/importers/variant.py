"""A teacher folder of this program as another teacher: with another truncation, or with statistics frozen anew."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.errors import UserError
from teacher_sampler.importers.registry import (
    IMPORTERS,
    ImportedTeacher,
    ImportRequest,
    no_truncation,
    psi_truncation,
    std_truncation,
)
from teacher_sampler.loading import load_teacher
from training.generator_folder import NetworkGenerator


@IMPORTERS.register("retort")
def import_variant(request: ImportRequest) -> ImportedTeacher:
    """`request.checkpoint`: the folder of a teacher whose insides are at hand."""
    teacher = load_teacher(Path(request.checkpoint), torch.device("cpu"))
    card = teacher.card
    if not isinstance(teacher, NetworkGenerator):
        raise UserError(
            f"--checkpoint {request.checkpoint} is a black box ({card.architecture}); import its file anew."
        )
    if hasattr(teacher.network, "truncate"):
        truncation = psi_truncation(request)
    elif card.architecture == "ccgan":
        no_truncation("ccgan", request)
        truncation = {}
    else:
        truncation = std_truncation(request)
    folded = {"spectral_normed": False} if "spectral_normed" in card.arguments else {}  # loading has folded it
    return ImportedTeacher(
        architecture=card.architecture,
        arguments={**card.arguments, **folded},
        resolution_px=card.resolution_px,
        channels=card.channels,
        label_space=teacher.label_space,
        latent=card.latent,
        truncation=truncation or card.truncation,
        network=teacher.network,
        notes={**card.trained_on, "variant_of": card.source_digest},
        licence=card.licence,
        augmentations=tuple(card.allowed_augmentations),
    )

"""The card that a teacher service shows: what a user of the images has to know, and nothing of where they come from.

No weights, no constructor arguments, no file names: the served teacher is known by its architecture's name and digest.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from image_data.labels import label_space_from_json
from interfaces import LabelSpace, Teacher, TeacherCard
from runtime.errors import UserError
from runtime.safe_files import parse_json
from teacher_sampler.remote.wire import AnswerError
from teacher_sampler.sampling.settings import SamplerSettings
from training.generator_folder import sampling_notes

ARCHITECTURE = "http"  # what the client's card says; the served architecture is in its arguments
_LARGEST_PX, _MOST_CHANNELS, _LARGEST_LATENT, _LARGEST_BATCH = 4096, 16, 1 << 14, 1 << 20
_MOST_CLASSES, _LARGEST_DIMENSION = 1 << 20, 1 << 10
_TEXT = 1000  # characters of any text in a card


@dataclass(frozen=True)
class ServedCard:
    """What a client knows of a teacher: its card, identity digest, largest batch, whether k ever ends, numerics."""

    card: TeacherCard
    label_space: LabelSpace
    digest: str
    max_batch: int
    endless: bool
    numerics: dict[str, Any]


def encode_card(teacher: Teacher, digest: str, max_batch: int, endless: bool, numerics: SamplerSettings) -> bytes:
    """The body of GET /card."""
    card = teacher.card
    relayed = card.architecture == ARCHITECTURE
    content = {
        "architecture": card.arguments.get("served", ARCHITECTURE) if relayed else card.architecture,
        "resolution_px": card.resolution_px,
        "channels": card.channels,
        "label_space": card.label_space,
        "latent": card.latent,
        "truncation": card.truncation or {},
        "sampling": sampling_notes(card),
        "licence": card.licence,
        "allowed_augmentations": list(card.allowed_augmentations),
        "measured_quality": {name: value for name, value in card.measured_quality.items() if _is_number(value)},
        "format_version": card.format_version,
        "digest": digest,
        "max_batch": max_batch,
        "endless": endless,
        "numerics": {
            "threads": numerics.threads,
            "tf32": numerics.tf32,
            "torch": torch.__version__,
            "device": getattr(teacher, "device", torch.device("cpu")).type,
        },
    }
    return json.dumps(content, allow_nan=False).encode()


def decode_card(data: bytes) -> ServedCard:
    """The inverse; AnswerError naming the first thing that is missing, of a wrong type or out of bounds."""
    try:
        fields = parse_json(data, "the card")
    except UserError as error:
        raise AnswerError("its card is no JSON text") from error
    _need(isinstance(fields, dict), "a JSON object")
    _need(fields.get("format_version") == 1, "of format version 1")
    _need(_whole(fields, "resolution_px", _LARGEST_PX), f"of images of 1 to {_LARGEST_PX} pixels")
    _need(_whole(fields, "channels", _MOST_CHANNELS), f"of 1 to {_MOST_CHANNELS} channels")
    _need(_whole(fields, "max_batch", _LARGEST_BATCH), "clear about max_batch")
    _need(bool(re.fullmatch(r"[0-9a-f]{8,128}", _text(fields, "digest"))), "clear about the teacher's digest")
    _need(isinstance(fields.get("endless"), bool), "clear about endless")
    augmentations = fields.get("allowed_augmentations")
    _need(
        isinstance(augmentations, list)
        and len(augmentations) <= _TEXT
        and all(_is_text(name) for name in augmentations),
        "clear about allowed_augmentations",
    )
    sampling = fields.get("sampling", {})
    _need(
        isinstance(sampling, dict) and all(_is_text(value) or _is_number(value) for value in sampling.values()),
        "clear about sampling",
    )
    quality, numerics = fields.get("measured_quality"), fields.get("numerics")
    _need(isinstance(quality, dict) and all(map(_is_number, quality.values())), "clear about measured_quality")
    _need(
        isinstance(numerics, dict) and all(_is_text(value) or _is_number(value) for value in numerics.values()),
        "clear about numerics",
    )
    label_space = _label_space(fields.get("label_space"))
    card = TeacherCard(
        architecture=ARCHITECTURE,
        arguments={"served": _text(fields, "architecture"), "sampling": sampling},
        resolution_px=fields["resolution_px"],
        channels=fields["channels"],
        label_space=label_space.to_json(),
        latent=_latent(fields.get("latent")),
        truncation=_truncation(fields.get("truncation")),
        source_digest=fields["digest"],
        licence=_text(fields, "licence"),
        allowed_augmentations=augmentations,
        measured_quality=quality,
    )
    return ServedCard(card, label_space, fields["digest"], fields["max_batch"], fields["endless"], numerics)


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise AnswerError(f"its card is not {what}")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < 1 << 62


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT and value.isprintable()


def _text(fields: dict[str, Any], name: str) -> str:
    _need(_is_text(fields.get(name)), f"clear about {name}")
    return fields[name]


def _whole(fields: dict[str, Any], name: str, most: int) -> bool:
    return type(fields.get(name)) is int and 1 <= fields[name] <= most


def _label_space(fields: Any) -> LabelSpace:
    what = "clear about label_space"
    _need(isinstance(fields, dict), what)
    if fields.get("kind") == "classes":
        names = fields.get("names")
        _need(isinstance(names, list) and 1 <= len(names) <= _MOST_CLASSES and all(map(_is_text, names)), what)
    else:
        low, high = fields.get("low"), fields.get("high")
        _need(all(_is_number(end) and not isinstance(end, bool) for end in (low, high)) and low < high, what)
        _need(_whole({"dimension": 1, **fields}, "dimension", _LARGEST_DIMENSION), what)
        _need(_is_text(fields.get("unit", "")) and fields.get("transform", "linear") == "linear", what)
    try:
        return label_space_from_json(fields)
    except UserError as error:
        raise AnswerError(f"its card is not {what}") from error


def _latent(latent: Any) -> dict[str, Any]:
    what = "clear about latent"
    _need(isinstance(latent, dict) and set(latent) <= {"distribution", "dimension", "std"}, what)
    if latent:
        _need(latent.get("distribution") == "normal" and _whole(latent, "dimension", _LARGEST_LATENT), what)
        _need(_is_number(latent.get("std", 1.0)) and latent.get("std", 1.0) > 0, what)
    return latent


def _truncation(truncation: Any) -> dict[str, Any]:
    what = "clear about truncation"
    _need(isinstance(truncation, dict) and set(truncation) <= {"std", "psi", "cutoff"}, what)
    _need(all(map(_is_number, truncation.values())) and truncation.get("std", 1.0) > 0, what)
    return truncation

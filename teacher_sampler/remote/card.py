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
        found = parse_json(data, "the card")
    except UserError as error:
        raise AnswerError("its card is no JSON text") from error
    _need(isinstance(found, dict), "a JSON object")
    _need(found.get("format_version") == 1, "of format version 1")
    _need(_whole(found, "resolution_px", _LARGEST_PX), f"of images of 1 to {_LARGEST_PX} pixels")
    _need(_whole(found, "channels", _MOST_CHANNELS), f"of 1 to {_MOST_CHANNELS} channels")
    _need(_whole(found, "max_batch", _LARGEST_BATCH), "clear about max_batch")
    _need(bool(re.fullmatch(r"[0-9a-f]{8,128}", _text(found, "digest"))), "clear about the teacher's digest")
    _need(isinstance(found.get("endless"), bool), "clear about endless")
    augmentations = found.get("allowed_augmentations")
    _need(
        isinstance(augmentations, list)
        and len(augmentations) <= _TEXT
        and all(_is_text(name) for name in augmentations),
        "clear about allowed_augmentations",
    )
    sampling = found.get("sampling", {})
    _need(
        isinstance(sampling, dict) and all(_is_text(value) or _is_number(value) for value in sampling.values()),
        "clear about sampling",
    )
    quality, numerics = found.get("measured_quality"), found.get("numerics")
    _need(isinstance(quality, dict) and all(map(_is_number, quality.values())), "clear about measured_quality")
    _need(
        isinstance(numerics, dict) and all(_is_text(value) or _is_number(value) for value in numerics.values()),
        "clear about numerics",
    )
    label_space = _label_space(found.get("label_space"))
    card = TeacherCard(
        architecture=ARCHITECTURE,
        arguments={"served": _text(found, "architecture"), "sampling": sampling},
        resolution_px=found["resolution_px"],
        channels=found["channels"],
        label_space=label_space.to_json(),
        latent=_latent(found.get("latent")),
        truncation=_truncation(found.get("truncation")),
        source_digest=found["digest"],
        licence=_text(found, "licence"),
        allowed_augmentations=augmentations,
        measured_quality=quality,
    )
    return ServedCard(card, label_space, found["digest"], found["max_batch"], found["endless"], numerics)


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise AnswerError(f"its card is not {what}")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < 1 << 62


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT and value.isprintable()


def _text(found: dict[str, Any], name: str) -> str:
    _need(_is_text(found.get(name)), f"clear about {name}")
    return found[name]


def _whole(found: dict[str, Any], name: str, most: int) -> bool:
    return type(found.get(name)) is int and 1 <= found[name] <= most


def _label_space(found: Any) -> LabelSpace:
    what = "clear about label_space"
    _need(isinstance(found, dict), what)
    if found.get("kind") == "classes":
        names = found.get("names")
        _need(isinstance(names, list) and 1 <= len(names) <= _MOST_CLASSES and all(map(_is_text, names)), what)
    else:
        low, high = found.get("low"), found.get("high")
        _need(all(_is_number(end) and not isinstance(end, bool) for end in (low, high)) and low < high, what)
        _need(_whole({"dimension": 1, **found}, "dimension", _LARGEST_DIMENSION), what)
        _need(_is_text(found.get("unit", "")) and found.get("transform", "linear") == "linear", what)
    try:
        return label_space_from_json(found)
    except UserError as error:
        raise AnswerError(f"its card is not {what}") from error


def _latent(found: Any) -> dict[str, Any]:
    what = "clear about latent"
    _need(isinstance(found, dict) and set(found) <= {"distribution", "dimension", "std"}, what)
    if found:
        _need(found.get("distribution") == "normal" and _whole(found, "dimension", _LARGEST_LATENT), what)
        _need(_is_number(found.get("std", 1.0)) and found.get("std", 1.0) > 0, what)
    return found


def _truncation(found: Any) -> dict[str, Any]:
    what = "clear about truncation"
    _need(isinstance(found, dict) and set(found) <= {"std", "psi", "cutoff"}, what)
    _need(all(map(_is_number, found.values())) and found.get("std", 1.0) > 0, what)
    return found

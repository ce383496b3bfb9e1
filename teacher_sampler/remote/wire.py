"""What the two sides of a teacher service share: paths, headers, limits, and how requests and images are written.

A request names candidates (seed, label, k); the answer is their images as uint8 levels in safetensors bytes.  What
comes in is never trusted: bytes are counted before they are parsed, and types, ranges and shapes are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from interfaces import LabelSpace
from runtime.errors import UserError
from runtime.safe_files import parse_json

PROTOCOL = 1
HEALTH_PATH, CARD_PATH, IMAGES_PATH, CANDIDATES_PATH = "/health", "/card", "/images", "/candidates"
CONTENT_SHA256 = "X-Content-SHA256"  # of the body; in every good answer of a service
TEACHER_DIGEST = "X-Teacher-Digest"  # in every good answer but /health's
LATENTS_SHA256 = "X-Latents-SHA256"  # of the float32 latents behind the images, or NO_LATENTS
NO_LATENTS = "none"
TOKEN_VARIABLE = "RETORT_TEACHER_TOKEN"

LARGEST_SEED = (1 << 63) - 1
CANDIDATES_END = 1 << 62  # candidate numbers are below this
CARD_BYTES = 4 << 20
LARGEST_ANSWER = 2 << 30  # bytes of images that a client takes at once, whatever a card says
SENTENCE_BYTES = 4096  # of an answer that is an error
_HEADER_BYTES = 1024  # of a safetensors file with one tensor, generously
_NUMBER_BYTES = 32  # of a number in a request, generously
_IMAGES = "images"


class RequestError(Exception):
    """A request that is refused: the HTTP status and a sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class AnswerError(Exception):
    """An answer that is not what the protocol says."""


@dataclass(frozen=True, eq=False)
class ImagesRequest:
    """Candidates asked for: labels in the user's units (int64 N, or float64 N or N x d), candidate numbers int64 N."""

    seed: int
    labels: np.ndarray
    candidates: np.ndarray


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def latents_sha256(latents: torch.Tensor | None) -> str:
    """Of float32 N x z in C order, little-endian; NO_LATENTS for a teacher without."""
    if latents is None:
        return NO_LATENTS
    return sha256(np.ascontiguousarray(latents.detach().cpu().numpy(), dtype="<f4").tobytes())


def request_bytes(space: LabelSpace, max_batch: int) -> int:
    """No honest request of so many candidates is longer."""
    numbers = 1 + (1 if space.kind == "classes" else space.width)
    return 256 + max_batch * numbers * _NUMBER_BYTES


def answer_bytes(shape: Sequence[int]) -> int:
    """No honest answer with uint8 images of this shape is longer."""
    return _HEADER_BYTES + int(np.prod(shape, dtype=np.int64))


def encode_images_request(request: ImagesRequest) -> bytes:
    """The body of POST /images.  float64 labels come out bit for bit: JSON holds their shortest exact decimals."""
    content = {
        "seed": request.seed,
        "labels": request.labels.tolist(),
        "candidates": request.candidates.tolist(),
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def decode_images_request(body: bytes, space: LabelSpace, max_batch: int) -> ImagesRequest:
    """The inverse.  RequestError: 400 no JSON object, 413 too many candidates, 422 anything else that is wrong."""
    fields = _json_object(body, {"seed", "labels", "candidates"})
    seed, numbers = fields["seed"], fields["candidates"]
    if not _is_whole(seed) or not 0 <= seed <= LARGEST_SEED:
        raise RequestError(422, "seed must be a whole number from 0 to 2^63 - 1.")
    labels = _labels(fields["labels"], space, max_batch)
    if not isinstance(numbers, list) or len(numbers) != len(labels):
        raise RequestError(422, f"candidates must be a list as long as labels ({len(labels)}).")
    if not all(_is_whole(number) and 0 <= number < CANDIDATES_END for number in numbers):
        raise RequestError(422, "candidates must be whole numbers from 0 to 2^62 - 1.")
    return ImagesRequest(seed, labels, np.array(numbers, dtype=np.int64))


def encode_labels_request(labels: np.ndarray) -> bytes:
    """The body of POST /candidates."""
    return json.dumps({"labels": labels.tolist()}, separators=(",", ":"), allow_nan=False).encode()


def decode_labels_request(body: bytes, space: LabelSpace, max_batch: int) -> np.ndarray:
    """The inverse; RequestError as for images."""
    return _labels(_json_object(body, {"labels"})["labels"], space, max_batch)


def _json_object(body: bytes, keys: set[str]) -> dict[str, Any]:
    try:
        content = parse_json(body, "the body")
    except UserError as error:
        raise RequestError(400, "the body is no JSON text of finite numbers in UTF-8.") from error
    if not isinstance(content, dict) or set(content) != keys:
        raise RequestError(422, f"the body must be a JSON object with the keys {', '.join(sorted(keys))}.")
    return content


def _is_whole(value: Any) -> bool:
    return type(value) is int  # a bool is no number here


def _labels(values: Any, space: LabelSpace, max_batch: int) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise RequestError(422, "labels must be a list with at least one label.")
    if len(values) > max_batch:
        raise RequestError(413, f"{len(values)} labels are too many; ask for at most {max_batch} at once.")
    try:
        if space.kind == "classes":
            labels = np.array([_class(value, space.width) for value in values], dtype=np.int64)
        elif space.width == 1:
            labels = np.array([_number(value) for value in values], dtype=np.float64)
        else:
            labels = np.array([_vector(value, space.width) for value in values], dtype=np.float64)
        space.check(labels, "labels")
    except (TypeError, OverflowError) as error:
        raise RequestError(422, f"labels must be {_wanted(space)}.") from error
    except UserError as error:
        raise RequestError(422, str(error)) from error
    return labels


def _class(value: Any, classes: int) -> int:
    if not _is_whole(value) or not 0 <= value < classes:
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if type(value) is not float and not _is_whole(value):
        raise TypeError
    return float(value)


def _vector(value: Any, width: int) -> list[float]:
    if not isinstance(value, list) or len(value) != width:
        raise TypeError
    return [_number(part) for part in value]


def _wanted(space: LabelSpace) -> str:
    if space.kind == "classes":
        return f"whole numbers from 0 to {space.width - 1}"
    return "numbers" if space.width == 1 else f"lists of {space.width} numbers"


def encode_images(images: torch.Tensor) -> bytes:
    """uint8 N x C x H x W -> safetensors bytes."""
    return save({_IMAGES: np.ascontiguousarray(images.cpu().numpy())})


def decode_images(data: bytes, shape: Sequence[int]) -> torch.Tensor:
    """The inverse; AnswerError where the bytes hold anything else than one uint8 tensor of this shape."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AnswerError("its images are no safetensors data") from error
    if set(tensors) != {_IMAGES}:
        raise AnswerError(f"it sent {len(tensors)} tensors where images alone were expected")
    images = tensors[_IMAGES]
    if images.dtype != np.uint8 or images.shape != tuple(shape):
        raise AnswerError(
            f"its images are {images.dtype} of shape {list(images.shape)} in place of uint8 of shape {list(shape)}"
        )
    return torch.from_numpy(images.copy() if not images.flags.writeable else images)


def encode_counts(counts: np.ndarray | None) -> bytes:
    """The answer of /candidates: how many candidates each label has, or null where they are endless."""
    return json.dumps({"candidates": None if counts is None else counts.tolist()}).encode()


def decode_counts(data: bytes, labels: int) -> np.ndarray | None:
    """The inverse: int64 N, or None; AnswerError where it is malformed."""
    try:
        counts = parse_json(data, "the answer")["candidates"]
    except (UserError, KeyError, TypeError) as error:
        raise AnswerError("its numbers of candidates are no JSON object") from error
    if counts is None:
        return None
    good = isinstance(counts, list) and len(counts) == labels
    if not good or not all(_is_whole(count) and 0 <= count <= CANDIDATES_END for count in counts):
        raise AnswerError(f"its numbers of candidates are not {labels} whole numbers")
    return np.array(counts, dtype=np.int64)


def levels_to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1, 1], such that `layers.pixels.quantise` gives the same levels back."""
    return images.float().div_(127.5).sub_(1.0)


def valid_token(token: str) -> bool:
    """Whether a text can stand in an Authorization header: printable ASCII without spaces."""
    return bool(token) and all("!" <= character <= "~" for character in token)

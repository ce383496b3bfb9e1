"""What a trained thing has been fitted on, as sets of image hashes by part and role, in one file beside its card.

A part is a network or a set of images with a say in a result: "GAN", "density ratio", "predictor" and so on.  A child
holds its parents' parts beside its own, so a student's file tells what all of them have seen, on any machine.  Roles:

* `train`: images that the part's weights were fitted on, or that it consists of;
* `val`: images that chose among its states (early stopping, selection) and fitted nothing.

**The rule** that whatever scores or selects has to keep (`classifiers.leak_guard`): no part's `train` holds a
validation image, since what chooses (rho, a step) may not be scored by what was fitted on the very images; `val` may,
since all parts select on the same validation images.  No part's `train` or `val` holds a test image.
A part that does not say what it has seen is *unknown*; that is written beside every number that it had a say in.

A hash names an image by its pixels: BLAKE2b, 64 bits, over uint8 C x H x W as they lie in the user's file, before any
resizing and whatever number of channels is asked for (three equal channels count as one).  Labels and file names are no
part of it.  So one image has one hash at every --resolution; a resized or newly compressed copy is another image.
Among a million images two that differ share a hash with a chance of 1 in 30 million.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from image_data.seen_names import SEEN_FILE
from runtime.atomic import write_bytes
from runtime.digests import canonical_json, file_sha256
from runtime.errors import UserError
from runtime.safe_files import parse_json

ROLES = ("train", "val")
_FORMAT = 1
_BLOCK = 1024


def image_hashes(pixels: np.ndarray) -> np.ndarray:
    """uint64 N: the hash of each image of uint8 N x C x H x W."""
    hashes = np.empty(len(pixels), dtype=np.uint64)
    for start in range(0, len(pixels), _BLOCK):
        block = np.ascontiguousarray(pixels[start : start + _BLOCK])
        hashes[start : start + len(block)] = _block_hashes(block)
    return hashes


def _block_hashes(block: np.ndarray) -> np.ndarray:
    count, channels = block.shape[:2]
    grey = np.zeros(count, dtype=bool)
    if channels == 3:
        grey = ((block[:, 0] == block[:, 1]) & (block[:, 0] == block[:, 2])).reshape(count, -1).all(axis=1)
    begun = {kept: hashlib.blake2b(f"{kept}x{block.shape[2]}x{block.shape[3]}|".encode(), digest_size=8)
             for kept in (1, channels)}  # fmt: skip
    sums = bytearray()
    for image, is_grey in zip(block, grey.tolist(), strict=True):
        total = begun[1 if is_grey else channels].copy()
        total.update(image[:1].data if is_grey else image.data)
        sums += total.digest()
    return np.frombuffer(bytes(sums), dtype="<u8").astype(np.uint64)


def distinct(hashes: np.ndarray) -> np.ndarray:
    """Sorted, each once; ten times as fast as `np.unique` for a million hashes."""
    ordered = np.sort(hashes)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def are_among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool N: which hashes are in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(hashes), dtype=bool)
    present: np.ndarray = known[np.searchsorted(known, hashes).clip(max=len(known) - 1)] == hashes
    return present


@dataclass(frozen=True, eq=False)
class Seen:
    """`parts`: part -> role -> sorted distinct uint64 hashes.  `unknown`: part -> why it does not say what it saw.

    A part may stand in both: ready images are known, and the training images of the network behind them are not.
    """

    parts: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(part: str, *, train: np.ndarray | None = None, val: np.ndarray | None = None) -> Seen:
        """One part with the hashes of its images (in any order, with repetitions)."""
        given = {"train": train, "val": val}
        return Seen({part: {role: distinct(hashes) for role, hashes in given.items() if hashes is not None}})

    @staticmethod
    def nothing_known(part: str, why: str) -> Seen:
        """A part from elsewhere."""
        return Seen({}, {part: why})

    def renamed(self, old: str, new: str) -> Seen:
        """The same with a part's name as its user calls it."""
        parts = {new if name == old else name: roles for name, roles in self.parts.items()}
        return Seen(parts, {new if name == old else name: why for name, why in self.unknown.items()})

    @property
    def names(self) -> list[str]:
        """All parts, known or not."""
        return list(dict.fromkeys([*self.parts, *self.unknown]))


def merge(several: Iterable[Seen]) -> Seen:
    """All parts of all; of parts with one name the union."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    unknown: dict[str, str] = {}
    for seen in several:
        for name, roles in seen.parts.items():
            by_role = parts.setdefault(name, {})
            for role, hashes in roles.items():
                by_role[role] = hashes if role not in by_role else _union(by_role[role], hashes)
        for name, why in seen.unknown.items():
            unknown.setdefault(name, why)
    return Seen(parts, unknown)


def _union(known: np.ndarray, added: np.ndarray) -> np.ndarray:
    return known if np.array_equal(known, added) else distinct(np.concatenate([known, added]))


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def write_seen(folder: Path, seen: Seen) -> str:
    """Commit `seen.safetensors` in `folder`; returns the file's SHA-256, for the card.

    Equal sets are held once (GAN, ratio and predictor of one dataset share theirs): 8 bytes an image.
    """
    tensors: dict[str, np.ndarray] = {}
    places: dict[bytes, str] = {}
    parts: dict[str, dict[str, str]] = {}
    for name, roles in sorted(seen.parts.items()):
        parts[name] = {}  # also of a part that has seen no real image
        for role, hashes in sorted(roles.items()):
            key = places.setdefault(hashlib.sha256(hashes.tobytes()).digest(), f"images{len(places)}")
            tensors[key] = hashes
            parts[name][role] = key
    described: dict[str, Any] = {"format": _FORMAT, "parts": parts, "unknown": dict(sorted(seen.unknown.items()))}
    text = canonical_json(described)
    # One entry, since the library writes several in any order, and equal content is to give equal bytes.
    metadata = {"seen": canonical_json({"seen": text, "seal": _seal(text, tensors)})}
    data = save(tensors or {"none": np.zeros(0, np.uint64)}, metadata)
    if not _holds(folder / SEEN_FILE, data):  # it may lie where nothing can be written
        write_bytes(folder / SEEN_FILE, data)
    return hashlib.sha256(data).hexdigest()


def read_seen(folder: Path, sha256: str | None = None) -> Seen | None:
    """The file's content; None where there is none and nobody named one.

    `sha256`: what the card says.  UserError where the file is missing though it was named, damaged or another one.
    """
    path = Path(folder) / SEEN_FILE
    if not path.is_file():
        if sha256 is None:
            return None
        raise UserError(f"{path} is missing, which tells what images {folder} has seen; restore it, or make it again.")
    remedy = "restore it, or make the folder again"
    try:
        if sha256 is not None and file_sha256(path) != sha256:
            raise UserError(f"{path} is not the file that the card beside it names; {remedy}.")
        with safe_open(path, "numpy") as file:
            metadata = parse_json(file.metadata()["seen"], f"the text in {path}", remedy)
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "none"}  # noqa: SIM118
        described = parse_json(metadata["seen"], f"the text in {path}", remedy)
        if described["format"] != _FORMAT:
            raise UserError(f"{path} has format {described['format']}; this program reads format {_FORMAT}.")
        if metadata["seal"] != _seal(metadata["seen"], tensors):
            raise ValueError("its seal is broken")
        parts = {
            name: {role: tensors[key] for role, key in roles.items()} for name, roles in described["parts"].items()
        }
        return Seen(parts, described["unknown"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); {remedy}.") from error


def _seal(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        total.update(f"|{name}|{tensors[name].dtype.str}|".encode())
        total.update(np.ascontiguousarray(tensors[name]).data)
    return total.hexdigest()

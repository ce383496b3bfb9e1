"""A teacher that consists of ready-made images: candidate k of a label is its image number k, and there are no more.

`images.h5` holds all images once, sorted by label, uncompressed, so that any image is one read from a mapped file.  It
also holds the SHA-256 of every image; the card's digest names labels and these, so opening is quick and an image is
checked when it is first used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from image_data.real.whole import WholeSource
from image_data.seen import Seen, merge, write_seen
from image_data.seen_names import GAN
from interfaces import LabelSpace, TeacherCard
from runtime.atomic import commit_file
from runtime.errors import UserError
from runtime.free_space import free_disk_bytes
from runtime.progress import progress
from runtime.safe_files.hdf5_policy import open_trusted_layout, read_array
from runtime.seeds import label_bits
from teacher_sampler.black_box.registry import BLACK_BOXES
from teacher_sampler.sampling.plan import PILOT_START, label_name
from training.model_folder import CARD_FILE

IMAGES_FILE = "images.h5"
_SHA_BYTES = 32
_MAKER = "ready images, whose maker does not say"


def write_images(folder: Path, source: WholeSource, maker: Seen | None = None) -> str:
    """Write `images.h5` in one step, piece by piece; returns the digest of its contents.

    Images of one label stand in the source's order.  `seen.safetensors` tells which images these are, and what their
    `maker` has seen: by default that is not known.
    """
    labels = source.labels + 0.0 if source.labels.dtype.kind == "f" else source.labels  # no -0.0
    source.label_space.check(labels, "the images' labels")
    _, inverse = np.unique(labels, axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sums = np.empty((len(labels), _SHA_BYTES), dtype=np.uint8)
    _check_disk(folder, len(labels) * math.prod(source.shape))
    hashes = np.zeros(len(labels), dtype=np.uint64)
    temporary = folder / f".{IMAGES_FILE}.tmp"
    try:
        offset = _lay_out(temporary, (len(labels), *source.shape))
        with open(temporary, "r+b") as stream:  # a full disk is an error here, and a signal in mapped memory
            os.posix_fallocate(stream.fileno(), 0, temporary.stat().st_size)
        pixels = np.memmap(temporary, np.uint8, "r+", offset, (len(labels), *source.shape))
        done = 0
        with progress("copying images", len(labels)) as bar:
            for piece in source.pieces(hashes):
                rows = place[done : done + len(piece)]
                pixels[rows] = piece
                for row, image in zip(rows, piece, strict=True):
                    sums[row] = _sha256(image)
                done += len(piece)
                bar.advance(len(piece))
        if done != len(labels):
            raise ValueError(f"{done} images came for {len(labels)} labels")
        pixels.flush()
        del pixels
        with h5py.File(temporary, "r+") as file:
            file.create_dataset("fake_labels", data=labels[order], track_times=False)
            file.create_dataset("row_sha256", data=sums, track_times=False)
        commit_file(temporary, folder / IMAGES_FILE)
        write_seen(folder, merge([Seen.of(GAN, train=hashes), maker or Seen.nothing_known(GAN, _MAKER)]))
    finally:
        temporary.unlink(missing_ok=True)
    return _digest(labels[order], sums, source.shape)


def _check_disk(folder: Path, needed_bytes: int) -> None:
    free = free_disk_bytes(folder)
    if needed_bytes > free:
        raise UserError(
            f"the images take {needed_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free where {folder} lies; "
            "give fewer images, a smaller --resolution, or an --out elsewhere."
        )


def _lay_out(path: Path, shape: tuple[int, ...]) -> int:
    """Make the file with room for all images; returns where their bytes begin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("fake_images", shape=shape, dtype=np.uint8, track_times=False)
        images[-1] = 0  # the first write allocates the whole array
        file.flush()
        return int(images.id.get_offset())


def _sha256(image: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(image).data).digest(), dtype=np.uint8)


def _digest(labels: np.ndarray, sums: np.ndarray, shape: tuple[int, ...]) -> str:
    head = json.dumps([labels.dtype.str, labels.shape, shape])
    return hashlib.sha256(head.encode() + labels.tobytes() + sums.tobytes()).hexdigest()


class ReadyImages:
    """The Teacher interface over `images.h5`.  Images are float32 of exact grey levels; there are no latents.

    `labels`: those that there are images of, each once.
    """

    def __init__(self, path: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> None:
        self.path, self.card, self.label_space, self.device = path, card, label_space, device
        shape = (card.channels, card.resolution_px, card.resolution_px)
        offset, labels, self._sums = _open(path, shape)
        if _digest(labels, self._sums, shape) != card.source_digest:
            raise UserError(f"{path} does not match the digest in its card; the file is damaged, restore it.")
        self._pixels = np.memmap(path, np.uint8, "r", offset, (len(labels), *shape))
        self._checked = np.zeros(len(labels), dtype=bool)
        changes = (labels[1:] != labels[:-1]).reshape(len(labels) - 1, -1).any(axis=1)
        starts = np.flatnonzero(np.r_[True, changes])
        self.labels = labels[starts]  # each label that has images, once
        bits = label_bits(self.labels)
        order = np.argsort(bits)
        self._bits = bits[order]
        self._starts, self._counts = starts[order], np.diff(np.r_[starts, len(labels)])[order]

    def latents(self, keys: np.ndarray, seed: int) -> None:
        return None

    def candidates(self, labels: np.ndarray) -> np.ndarray:
        """int64 N: how many images each label has."""
        return self._find(label_bits(labels))[1]

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """The images that the keys name.  k from 2^40 on (a pilot, a filter's fit) only looks, and begins anew.

        UserError for a label without images; ValueError for a k that its label does not have.
        """
        starts, counts = self._find(keys[:, 0])
        if not counts.all():
            label = label_name(self.label_space.to_json(), labels[int(np.argmin(counts > 0))])
            raise UserError(f"the teacher has no images of label {label}; ask for labels that it has.")
        k = np.where(keys[:, 1] >= PILOT_START, keys[:, 1] % counts, keys[:, 1])
        if (k < 0).any() or (k >= counts).any():
            raise ValueError("a candidate beyond the images of its label was asked for")
        rows = starts + k
        pixels = self._pixels[rows]
        self._check(rows, pixels)
        return torch.from_numpy(pixels).to(self.device).float().div_(127.5).sub_(1.0)

    def _find(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(first row, number of images) of each label."""
        place = np.searchsorted(self._bits, bits).clip(max=len(self._bits) - 1)
        return self._starts[place], np.where(self._bits[place] == bits, self._counts[place], 0)

    def _check(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        for position in np.flatnonzero(~self._checked[rows]):
            if not np.array_equal(_sha256(pixels[position]), self._sums[rows[position]]):
                raise UserError(f"{self.path}: image {rows[position]} does not match its digest; restore the file.")
        self._checked[rows] = True


def _open(path: Path, shape: tuple[int, ...]) -> tuple[int, np.ndarray, np.ndarray]:
    """(offset of the pixels, labels, the images' SHA-256)."""
    with open_trusted_layout(path) as file:
        if set(file) != {"fake_images", "fake_labels", "row_sha256"}:
            raise UserError(f"{path} is not as `import-teacher` wrote it; restore it or import the images again.")
        images: Any = file["fake_images"]
        labels, sums = read_array(file["fake_labels"], path), read_array(file["row_sha256"], path)
        offset = images.id.get_offset()
        whole = offset is not None and images.chunks is None and images.dtype == np.uint8
        rows = len(labels)
        if not whole or images.shape != (rows, *shape) or sums.shape != (rows, _SHA_BYTES) or sums.dtype != np.uint8:
            raise UserError(f"{path} is not as its card says; restore it or import the images again.")
    if offset + rows * int(np.prod(shape)) > path.stat().st_size:
        raise UserError(f"{path} is too short; restore it or import the images again.")
    return int(offset), labels, sums


@BLACK_BOXES.register("images")
def load_images(folder: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> ReadyImages:
    """The teacher of a folder with `images.h5`; UserError where the file is not that of the card."""
    path = folder / IMAGES_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it or import the teacher again.")
    if card.latent or card.truncation or card.arguments:
        raise UserError(f"{folder / CARD_FILE} does not describe ready-made images; restore it.")
    return ReadyImages(path, card, label_space, device)

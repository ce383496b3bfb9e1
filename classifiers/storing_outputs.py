"""Making stored outputs: every view of every image through the predictor once, in blocks, committed as it goes.

`progress.json` names how many rows are on the disk and the digest of each file up to there; what lies behind is of a
process that was killed, and is made again.  Blocks begin at the same rows after a kill, so the bytes are the same.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from classifiers.predictor import ClassifierPredictor
from classifiers.stored_outputs import (
    CARD_FILE,
    FORMAT_VERSION,
    KEYS,
    KIND,
    OUTPUTS,
    POOLED,
    content_digest,
    fake_keys,
)
from image_data.augment import augment_view
from image_data.fake.dataset import FakeDataset
from image_data.seen import image_hashes
from image_data.sources import ArraySource
from runtime.atomic import disk_errors, fsync_path, make_folder, refuse_gone, write_bytes
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.os_errors import named
from runtime.progress import progress
from runtime.safe_files import read_sealed_json, write_sealed_json

PROGRESS_FILE = "progress.json"
_BLOCK_VIEWS = 256  # that the predictor sees at once
_COMMIT_VIEWS = 8192  # between two commits, at least
_COMMITS = 200  # at most, of a large folder
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class ViewPlan:
    """How the views are made: how many of an image, from which seed, changed in which ways; pooled features too?"""

    views: int
    seed: int
    augmentation: tuple[str, ...]
    pooled: bool


class ViewedImages:
    """The rows of the folder: distinct real images by key, then all rows of the fakes.  Either may be None."""

    def __init__(self, real: ArraySource | None, fakes: FakeDataset | None) -> None:
        self.real, self.fakes = real, fakes
        self.keys, self._places = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        if real is not None:
            self.keys, self._places = np.unique(image_hashes(real.pixels), return_index=True)
        source: ArraySource | FakeDataset | None = real if real is not None else fakes
        if source is None or not len(self):
            raise UserError("there are no images to see; give real images, fakes, or both.")
        self.image_shape = tuple(source.images(np.array([0])).shape[1:])

    def __len__(self) -> int:
        return len(self.keys) + (0 if self.fakes is None else len(self.fakes))

    def block(self, begin: int, end: int) -> tuple[torch.Tensor, np.ndarray]:
        """(uint8 pixels, keys) of the rows from begin to before end."""
        pixels, keys = [], []
        real = min(end, len(self.keys))
        if self.real is not None and begin < real:
            pixels.append(self.real.pixels[self._places[begin:real]])
            keys.append(self.keys[begin:real])
        if self.fakes is not None and end > len(self.keys):
            rows = np.arange(max(begin, len(self.keys)), end) - len(self.keys)
            pixels.append(self.fakes.images(rows))
            keys.append(fake_keys(self.fakes.digest, rows))
        return torch.from_numpy(np.concatenate(pixels)), np.concatenate(keys)


def output_widths(predictor: ClassifierPredictor, plan: ViewPlan) -> dict[str, int]:
    """Numbers of a view in each file; UserError where pooled features are asked of a predictor that has none."""
    widths = {OUTPUTS: predictor.label_space.width}
    if not plan.pooled:
        return widths
    if not predictor.has_insides:
        raise UserError("--pooled: this predictor is a program without insides; leave it out.")
    card = predictor.card
    shape = (2, int(card["channels"]), int(card["resolution_px"]), int(card["resolution_px"]))
    seen = predictor.views(torch.zeros(shape, dtype=torch.uint8), predictor.reader(["pooled"]))
    if seen.features["pooled"].ndim != 2:
        raise UserError("--pooled: this predictor's pooled features are no vectors; leave it out.")
    return {**widths, POOLED: seen.features["pooled"].shape[1]}


def store_outputs(
    folder: Path,
    images: ViewedImages,
    predictor: ClassifierPredictor,
    predictor_digest: str,
    plan: ViewPlan,
    trained_on: Mapping[str, Any],
    commit_views: int = _COMMIT_VIEWS,
) -> dict[str, Any]:
    """Write the folder, or what is missing of it; returns its card.  UserError for outputs that are not finite."""
    widths = output_widths(predictor, plan)
    files = {name: _Growing(folder / name, (len(images), plan.views, width)) for name, width in widths.items()}
    about = {"plan": digest_of([predictor_digest, *vars(plan).values(), widths]), "images": _named(images)}
    rows = max(1, _BLOCK_VIEWS // plan.views)
    commit_every = math.ceil(max(commit_views, len(images) * plan.views / _COMMITS) / (rows * plan.views)) * rows
    make_folder(folder)
    with disk_errors(folder), progress("views", len(images) * plan.views) as bar, ExitStack() as closed:
        for file in files.values():
            closed.callback(file.close)
        done = _resume(folder, about, files, len(images))
        bar.update(done * plan.views)
        for begin in range(done, len(images), rows):
            end = min(begin + rows, len(images))
            for name, values in _seen(images.block(begin, end), predictor, plan).items():
                files[name].append(values)
            if end == len(images) or end % commit_every == 0:
                _commit(folder, about, files, end)
            bar.advance((end - begin) * plan.views)
        card = _card(folder, images, predictor, predictor_digest, plan, widths, files)
        write_sealed_json(folder / CARD_FILE, {**card, "trained_on": dict(trained_on)})
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
    return card


def _named(images: ViewedImages) -> str:
    """What the rows are."""
    fakes = None if images.fakes is None else images.fakes.digest
    return digest_of([hashlib.sha256(images.keys.tobytes()).hexdigest(), fakes, list(images.image_shape)])


def _seen(
    block: tuple[torch.Tensor, np.ndarray], predictor: ClassifierPredictor, plan: ViewPlan
) -> dict[str, np.ndarray]:
    """File -> float32 rows x K x width of a block of images."""
    pixels, keys = block
    count = len(pixels)
    views = np.tile(np.arange(plan.views), count)
    shown = augment_view(
        pixels.repeat_interleave(plan.views, dim=0), plan.augmentation, np.repeat(keys, plan.views), views, plan.seed
    )
    found = predictor.views(shown, predictor.reader(["pooled"] if plan.pooled else []))
    values = {OUTPUTS: found.output, **({POOLED: found.features["pooled"]} if plan.pooled else {})}
    arrays = {}
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError("the predictor's outputs are no finite numbers for some of these images; take another one.")
        arrays[name] = value.float().cpu().numpy().reshape(count, plan.views, -1)
    return arrays


class _Growing:
    """A .npy file of float32 rows that is appended to, and the SHA-256 of what it holds so far."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        header = io.BytesIO()
        described = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)  # type: ignore[no-untyped-call, unused-ignore]
        self.path, self._header = path, header.getvalue()
        self._row_bytes = 4 * math.prod(shape[1:])
        self._sum: Any = hashlib.sha256()
        self._stream: IO[bytes] | None = None

    def _size(self, rows: int) -> int:
        return len(self._header) + rows * self._row_bytes

    def holds(self, rows: int, sha256: str) -> bool:
        """Whether the file begins with these rows."""
        self._sum, left = hashlib.sha256(), self._size(rows)
        try:
            with open(self.path, "rb") as stream:
                while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                    self._sum.update(piece)
                    left -= len(piece)
        except OSError:
            return False
        return left == 0 and self._sum.hexdigest() == sha256

    def begin(self, rows: int) -> None:
        """Append after these rows, which `holds` has found; 0: to an empty file."""
        refuse_gone(self.path)
        with named(self.path):
            self._stream = open(self.path, "r+b" if rows else "wb")  # noqa: SIM115 - open as long as rows come
            if rows:
                self._stream.truncate(self._size(rows))
                self._stream.seek(0, os.SEEK_END)
            else:
                self._sum = hashlib.sha256()
                self._write(self._header)

    def append(self, rows: np.ndarray) -> None:
        with named(self.path):
            self._write(np.ascontiguousarray(rows, dtype="<f4").tobytes())

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            raise ValueError(f"{self.path} was not begun")
        self._stream.write(data)
        self._sum.update(data)

    def commit(self) -> str:
        """Bring all to the disk; its digest."""
        refuse_gone(self.path)
        if self._stream is not None:
            self._stream.flush()
        fsync_path(self.path)
        return self.digest

    @property
    def digest(self) -> str:
        """Of all rows so far."""
        return str(self._sum.hexdigest())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _resume(folder: Path, about: Mapping[str, str], files: Mapping[str, _Growing], most: int) -> int:
    """How many rows are there, with every file opened behind them; 0 where nothing can be built on."""
    done = 0
    try:
        before = read_sealed_json(folder / PROGRESS_FILE)
        rows, sums = int(before["rows"]), dict(before["files"])
        if before["about"] == about and 0 < rows <= most and set(sums) == set(files):
            done = rows if all(file.holds(rows, str(sums[name])) for name, file in files.items()) else 0
    except (UserError, KeyError, TypeError, ValueError):
        done = 0
    for file in files.values():
        file.begin(done)
    return done


def _commit(folder: Path, about: Mapping[str, str], files: Mapping[str, _Growing], rows: int) -> None:
    sums = {name: file.commit() for name, file in files.items()}
    write_sealed_json(folder / PROGRESS_FILE, {"about": dict(about), "rows": rows, "files": sums})


def _card(
    folder: Path, images: ViewedImages, predictor: ClassifierPredictor, digest: str, plan: ViewPlan,
    widths: Mapping[str, int], files: Mapping[str, _Growing],
) -> dict[str, Any]:  # fmt: skip
    """Write the keys, and say what all is."""
    keys = io.BytesIO()
    np.save(keys, images.keys.astype("<u8"), allow_pickle=False)
    write_bytes(folder / KEYS, keys.getvalue())
    sums = {KEYS: hashlib.sha256(keys.getvalue()).hexdigest()} | {name: file.digest for name, file in files.items()}
    card = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "predictor": digest,
        "teacher": predictor.card.get("source_digest"),
        "label_space": predictor.card["label_space"],
        "foreign": bool(predictor.card.get("foreign")),
        "image_shape": list(images.image_shape),
        "views": plan.views,
        "seed": plan.seed,
        "augmentation": list(plan.augmentation),
        "pooled": widths.get(POOLED),
        "real": len(images.keys),
        "fakes": None if images.fakes is None else {"digest": images.fakes.digest, "rows": len(images.fakes)},
        "files": sums,
    }
    return {**card, "source_digest": content_digest(card)}

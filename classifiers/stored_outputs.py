"""A predictor's outputs for K views of each training image, made once: no teacher runs while a student trains.

A folder holds, as .npy files that `numpy.load` reads too,
* `keys.npy`     uint64 R: the real images' names by content (`image_data.seen.image_hashes` of the pixels as they are
  trained on), sorted, each once;
* `outputs.npy`  float32 (R + F) x K x C: logits, or encoded labels in [0, 1]; the rows of `keys`, then those of one
  dataset of fakes, in its order;
* `pooled.npy`   float32 (R + F) x K x d, where asked for: the feature named "pooled";
and `card.json`, sealed and written last, with the SHA-256 of each.  View v of an image is `image_data.augment_view`, a
pure function of (the folder's seed, what the image is, v), so that a training makes the very images that the predictor
saw.  Files are checked when the folder is opened, then mapped: memory does not grow with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from image_data.augment import augment_view, check_augmentations
from image_data.fake.dataset import FakeDataset
from image_data.labels import label_space_from_json
from image_data.seen import image_hashes
from image_data.sources import ArraySource, ImageSource
from interfaces import LabelSpace
from interfaces.method import Views
from layers.features import Insides
from runtime.digests import digest_of, file_sha256
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json
from runtime.seeds import derive_seed, keyed_words

CARD_FILE, KEYS, OUTPUTS, POOLED = "card.json", "keys.npy", "outputs.npy", "pooled.npy"
KIND, FORMAT_VERSION = "outputs", 1
MOST_VIEWS = 10_000
REMEDY = "restore it, or make the folder again with `score --views`"
_LONGEST_HEADER = 4096  # of a .npy file
_TYPES: dict[str, np.dtype[Any]] = {KEYS: np.dtype("<u8"), OUTPUTS: np.dtype("<f4"), POOLED: np.dtype("<f4")}


@dataclass(frozen=True, eq=False)
class StoredOutputs:
    """An opened folder; `open_outputs` opens it.  `outputs`, `pooled`: N x K x width, mapped; `keys`: sorted.

    predictor: the digest of the one that gave them; fakes: the digest of the dataset whose rows stand behind the real
    images, or None.
    """

    folder: Path
    card: Mapping[str, Any]
    label_space: LabelSpace
    views: int
    seed: int
    augmentation: tuple[str, ...]
    image_shape: tuple[int, ...]
    predictor: str
    fakes: str | None
    keys: np.ndarray
    outputs: np.ndarray
    pooled: np.ndarray | None

    @property
    def digest(self) -> str:
        """The folder's name: the digest of its content."""
        return str(self.card["source_digest"])

    def check_augmentation(self, names: Sequence[str]) -> None:
        """UserError where a training would change its images in another way than the views were made."""
        if tuple(names) != self.augmentation:
            stored, asked = (", ".join(some) or "none" for some in (self.augmentation, tuple(names)))
            given = ",".join(self.augmentation) or '""'
            raise UserError(
                f"--outputs {self.folder} holds views with the augmentation {stored}, and this training's is {asked}; "
                f"give --augmentation {given}, or store others (score --views {self.views} --augmentation ...)."
            )


def open_outputs(folder: Path) -> StoredOutputs:
    """Open a finished folder; every byte is compared with its digest.  UserError where something is not as written."""
    folder = Path(folder)
    card = read_outputs_card(folder)
    try:
        space, pooled = label_space_from_json(card["label_space"]), card["pooled"]
        real, fakes, views = int(card["real"]), int(card["fakes"]["rows"]) if card["fakes"] else 0, int(card["views"])
        shapes = {KEYS: (real,), OUTPUTS: (real + fakes, views, space.width)}
        if pooled is not None:
            shapes[POOLED] = (real + fakes, views, int(pooled))
        sums = {name: str(card["files"][name]) for name in shapes}
        if not 0 < views <= MOST_VIEWS or real < 0 or fakes < 0 or real + fakes == 0:
            raise ValueError("a count out of range")
        arrays = {name: _mapped(folder / name, shape, sums[name]) for name, shape in shapes.items()}
        return StoredOutputs(
            folder=folder,
            card=card,
            label_space=space,
            views=views,
            seed=int(card["seed"]),
            augmentation=check_augmentations(card["augmentation"], str(folder)),
            image_shape=tuple(int(side) for side in card["image_shape"]),
            predictor=str(card["predictor"]),
            fakes=str(card["fakes"]["digest"]) if card["fakes"] else None,
            keys=np.array(arrays[KEYS]),
            outputs=arrays[OUTPUTS],
            pooled=arrays.get(POOLED),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        text = f"{folder / CARD_FILE} lacks or garbles an entry ({printable(error)})"
        raise UserError(f"{text}; {REMEDY}.") from error


def read_outputs_card(folder: Path) -> dict[str, Any]:
    """The card of a folder; UserError where there is none, or it is damaged, another thing's or of another format."""
    path = Path(folder) / CARD_FILE
    try:
        card = read_sealed_json(path, REMEDY)
    except MissingFile as error:
        raise UserError(f"{folder} holds no finished stored outputs; run the same `score --views` again.") from error
    if card.get("kind") != KIND:
        raise UserError(f"{path} is not the card of stored outputs; give a folder that `score --views` made.")
    if card.get("format_version") != FORMAT_VERSION:
        version = printable(card.get("format_version"))
        raise UserError(f"{path} has format version {version}; this program reads version {FORMAT_VERSION}.")
    return card


def content_digest(card: Mapping[str, Any]) -> str:
    """The digest of all that a card says of the outputs; what the predictor has seen stands beside it."""
    return digest_of({name: value for name, value in card.items() if name not in ("source_digest", "trained_on")})


def _mapped(path: Path, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """The array of a .npy file whose bytes are those of the card; its header is not read, only stepped over."""
    dtype = _TYPES[path.name]
    try:
        offset = path.stat().st_size - math.prod(shape) * dtype.itemsize
        if not 0 < offset <= _LONGEST_HEADER or file_sha256(path) != sha256:
            raise UserError(f"{path} is not as it was written (its digest is not the card's); {REMEDY}.")
        if 0 in shape:
            return np.empty(shape, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {REMEDY}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {REMEDY}.") from error


def fake_keys(digest: str, rows: np.ndarray) -> np.ndarray:
    """uint64 N: what names these rows of a dataset of fakes where a view is drawn."""
    return np.asarray(rows).astype(np.uint64) ^ np.uint64(derive_seed("fake", digest))


class StoredTeacher:
    """Stored outputs for the rows of one training set, in the place of a running teacher.

    At each step each row gets one of its K views: a pure function of (seed, row, step).
    """

    def __init__(self, stored: StoredOutputs, train: ImageSource) -> None:
        """UserError that counts the images which the folder does not cover."""
        self.stored = stored
        # A student's card names the predictor as that of a training with the running one does.
        self.card: dict[str, Any] = {
            "source_digest": stored.card["teacher"],
            "label_space": stored.card["label_space"],
            "foreign": stored.card["foreign"],
        }
        self._rows = np.empty(len(train), dtype=np.int64)
        self._keys = np.empty(len(train), dtype=np.uint64)
        self._find(train)
        self.insides = None if stored.pooled is None else _insides(stored.pooled.shape[2], stored.label_space.width)

    def _find(self, train: ImageSource) -> None:
        known: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # a source that is repeated is looked up once
        begin = missing = lost_fakes = 0
        for source, rows in train.pieces():
            end = begin + len(rows)
            if isinstance(source, FakeDataset):
                held = len(self.stored.outputs) - len(self.stored.keys)
                there = source.digest == self.stored.fakes and held == len(source)
                lost_fakes += 0 if there else len(rows)
                self._rows[begin:end] = len(self.stored.keys) + rows
                self._keys[begin:end] = fake_keys(source.digest, rows)
            else:
                if id(source) not in known:
                    known[id(source)] = self._real(source)
                    missing += int((known[id(source)][0] < 0).sum())
                self._rows[begin:end], self._keys[begin:end] = (values[rows] for values in known[id(source)])
            begin = end
        self._refuse(missing, sum(len(found) for found, _ in known.values()), lost_fakes)

    def _real(self, source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
        """(row in the folder, -1 where there is none; key) of each image of a source in memory."""
        pixels = source.pixels if isinstance(source, ArraySource) else source.images(np.arange(len(source)))
        keys, known = image_hashes(pixels), self.stored.keys
        if not len(known) or pixels.shape[1:] != self.stored.image_shape:
            return np.full(len(keys), -1), keys
        rows = np.searchsorted(known, keys).clip(max=len(known) - 1)
        return np.where(known[rows] == keys, rows, -1), keys

    def _refuse(self, real: int, of: int, fakes: int) -> None:
        folder, again = self.stored.folder, f"score --views {self.stored.views}"
        if real:
            raise UserError(
                f"--outputs {folder} does not cover {real:,} of the {of:,} real training images; run {again} with the "
                "same --data, --fold, --resolution, --real-per-class and --data-seed as here."
            )
        if fakes:
            held = "no fakes" if self.stored.fakes is None else f"the fakes {self.stored.fakes[:8]}"
            raise UserError(
                f"--outputs {folder} does not cover the {fakes:,} fakes to train on: it holds {held}; run {again} with "
                "the same --fakes as here."
            )

    @property
    def width(self) -> int:
        """Outputs of an image."""
        return self.stored.label_space.width

    def drawn(self, rows: np.ndarray, seed: int, step: int) -> np.ndarray:
        """int64 N: which view each training row shows at this step."""
        words = keyed_words(rows, step, 1, seed, "view of a row")[:, 0]
        return (words % np.uint64(self.stored.views)).astype(np.int64)

    def images(self, pixels: torch.Tensor, rows: np.ndarray, seed: int, step: int) -> torch.Tensor:
        """The training images of these rows as the predictor saw them: N x C x H x W, like `pixels`."""
        drawn = self.drawn(rows, seed, step)
        return augment_view(pixels, self.stored.augmentation, self._keys[rows], drawn, self.stored.seed)

    def outputs(self, rows: np.ndarray, seed: int, step: int, features: Sequence[str] = ()) -> Views:
        """What the predictor gave for `images` of the same rows, seed and step; features: of {"pooled"}; on the CPU."""
        places = self._rows[rows], self.drawn(rows, seed, step)
        read = {} if self.stored.pooled is None else {"pooled": self.stored.pooled}
        return Views(
            torch.from_numpy(np.asarray(self.stored.outputs[places])),
            {name: torch.from_numpy(np.asarray(read[name][places])) for name in features},
        )


class _Pooled(nn.Module):
    """Stands for a network of which the pooled features alone are known: methods ask it for names and shapes."""

    def __init__(self, pooled: int, outputs: int) -> None:
        super().__init__()
        self.feature_paths = {"pooled": "pooled"}
        self.pooled, self._outputs = nn.Identity(), outputs
        self._width = pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.pooled(torch.zeros(len(images), self._width))
        return torch.zeros(len(images), self._outputs)


def _insides(pooled: int, outputs: int) -> Insides:
    return Insides(_Pooled(pooled, outputs), (torch.zeros(2, 1),), "teacher")

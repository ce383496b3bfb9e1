"""The embedded datasets: scikit-learn's 1,797 handwritten digits, and the same digits turned by a known angle.

Both have three folds with disjoint test sets (cross-fitting gives 1,491 test images) and the same roles.  The bundled
8 x 8 images fill their frame from top to bottom; here they get a margin of one of their pixels on each side, so that
a small shift or turn loses nothing, and are drawn bicubically at the asked resolution.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.dataset import RealData, assemble
from image_data.real.registry import REAL_DATASETS
from image_data.real.request import LoadRequest
from image_data.real.roles import cut_roles, rows_per_class
from image_data.seen import image_hashes
from image_data.sources import ArraySource
from runtime.errors import UserError
from runtime.seeds import numpy_generator

FOLDS = 3
ROLE_SIZES = {"train": 1000, "val": 300, "test": 497}
TURN_LIMIT_DEGREES = 60.0
TURNS_PER_TRAINING_IMAGE = 5
_SPLIT_SEED = 20240917  # never changes: roles and angles are part of the dataset
_RESOLUTIONS_PX = (8, 16, 32, 64, 128)
_DEFAULT_RESOLUTION_PX = 16
_DRAWN_PX = 16  # smaller versions are drawn at this size and averaged down
_MARGIN = 1  # original pixels
_TIE = 1e-6  # rounds exact halves alike on every machine, whatever the order of its sums
_BLOCK = 500


@REAL_DATASETS.register("digits")
def load_digits(request: LoadRequest) -> RealData:
    """Classes 0 .. 9.  Small shifts are allowed; a mirrored digit is not a digit."""
    grey, classes, hashes, resolution_px, channels = _bundled(request)
    pixels = _draw(grey, np.zeros(len(grey)), resolution_px, channels)
    rows = cut_roles(classes, ROLE_SIZES, _SPLIT_SEED, "digits roles", request.fold, FOLDS)
    roles = {role: ArraySource(pixels[chosen], classes[chosen], hashes[chosen]) for role, chosen in rows.items()}
    label_space = ClassLabels(tuple(str(digit) for digit in range(10)))
    allowed = ("translate",)
    return assemble("digits", label_space, roles, allowed, request.real_per_class, request.seed, _notes(request))


@REAL_DATASETS.register("rotated-digits")
def load_rotated_digits(request: LoadRequest) -> RealData:
    """The label is the angle in degrees by which an upright digit was turned; positive is anticlockwise.

    All ten digits take part: within +-60 degrees none becomes another or itself (6 and 9 are 180 degrees apart).  What
    cannot be learnt is the writer's own slant, a few degrees: it is the floor of the error.  Every training image is
    turned by 5 angles (5,000 images), every validation and test image by one.  `real_per_class` counts upright
    training digits of each class before they are turned.  Shifts keep the angle; mirrors do not.
    """
    grey, classes, hashes, resolution_px, channels = _bundled(request)
    limit = TURN_LIMIT_DEGREES
    draws = numpy_generator(_SPLIT_SEED, "digits angles").uniform(-limit, limit, (TURNS_PER_TRAINING_IMAGE, len(grey)))
    angles = np.round(draws, 2)
    rows = cut_roles(classes, ROLE_SIZES, _SPLIT_SEED, "digits roles", request.fold, FOLDS)
    notes = _notes(request) | {"turns_per_training_image": TURNS_PER_TRAINING_IMAGE}
    if request.real_per_class is not None:
        kept = rows_per_class(classes[rows["train"]], request.real_per_class, request.seed, "rotated-digits")
        rows["train"] = rows["train"][kept]
        notes |= {"real_per_class": request.real_per_class, "real_per_class_seed": request.seed}
    roles = {}
    for role, chosen in rows.items():
        turns = TURNS_PER_TRAINING_IMAGE if role == "train" else 1
        labels = angles[:turns, chosen].reshape(-1)
        pixels = _draw(np.tile(grey[chosen], (turns, 1, 1, 1)), labels, resolution_px, channels)
        roles[role] = ArraySource(pixels, labels, np.tile(hashes[chosen], turns))
    label_space = ContinuousLabels(-limit, limit, "degrees")
    return assemble("rotated-digits", label_space, roles, ("translate",), None, request.seed, notes)


def _bundled(request: LoadRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Grey levels float64 N x 1 x 10 x 10 in 0 .. 255 with margin, classes int64 N, hashes of the bundled images
    (a turned digit keeps its upright one's); checked resolution and channels.
    """
    if not 0 <= request.fold < FOLDS:
        raise UserError(f"fold {request.fold} of {request.name} does not exist; use 0 to {FOLDS - 1}.")
    resolution_px = _DEFAULT_RESOLUTION_PX if request.resolution_px is None else request.resolution_px
    if resolution_px not in _RESOLUTIONS_PX:
        sizes = ", ".join(map(str, _RESOLUTIONS_PX))
        raise UserError(f"{request.name} has no resolution_px {resolution_px}; use one of {sizes}.")
    channels = 1 if request.channels is None else request.channels
    if channels not in (1, 3):
        raise UserError(f"{request.name} has no version with {channels} channels; use 1 or 3.")
    if request.augmentations is not None:
        raise UserError(f"{request.name} says itself which augmentations keep its labels; leave the option out.")
    return *_scikit_learns_digits(), resolution_px, channels


@cache
def _scikit_learns_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits as sklearn_digits  # here, since it takes a second to import

    bunch = sklearn_digits()
    edges = (_MARGIN, _MARGIN)
    grey = np.pad(bunch.images[:, None].astype(np.float64) * (255 / 16), ((0, 0), (0, 0), edges, edges))
    return grey, bunch.target.astype(np.int64), image_hashes(bunch.images.astype(np.uint8)[:, None])


def _draw(grey: np.ndarray, degrees: np.ndarray, resolution_px: int, channels: int) -> np.ndarray:
    """float64 N x 1 x S x S and angles -> uint8 N x channels x resolution_px squared, bicubic, black outside."""
    drawn_px = max(resolution_px, _DRAWN_PX)
    out = np.empty((len(grey), channels, resolution_px, resolution_px), dtype=np.uint8)
    for start in range(0, len(grey), _BLOCK):
        block = torch.from_numpy(grey[start : start + _BLOCK])
        turn = np.deg2rad(degrees[start : start + _BLOCK])
        # Rows of the inverse map: from a place in the drawn image (y downwards) to the place in the original.
        inverse = np.zeros((len(turn), 2, 3))
        inverse[:, 0, 0] = inverse[:, 1, 1] = np.cos(turn)
        inverse[:, 0, 1], inverse[:, 1, 0] = -np.sin(turn), np.sin(turn)
        shape = [len(turn), 1, drawn_px, drawn_px]
        places = torch.nn.functional.affine_grid(torch.from_numpy(inverse), shape, align_corners=False)
        drawn = torch.nn.functional.grid_sample(block, places, "bicubic", "zeros", align_corners=False)
        if drawn_px > resolution_px:
            drawn = torch.nn.functional.avg_pool2d(drawn, drawn_px // resolution_px)
        out[start : start + _BLOCK] = np.clip(np.floor(drawn.numpy() + 0.5 + _TIE), 0, 255).astype(np.uint8)
    return out


def _notes(request: LoadRequest) -> dict[str, object]:
    return {"source": "scikit-learn load_digits (8 x 8), margin 1 px, bicubic", "fold": request.fold, "folds": FOLDS}

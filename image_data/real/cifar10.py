"""CIFAR-10: 50,000 training and 10,000 test images, 32 x 32, ten classes.

It is looked for below the data folder (RETORT_DATA_DIR, default `data`): first as an image folder `cifar10/` with
`train/CLASS/` and `test/CLASS/`, then as torchvision's copy `cifar-10-batches-py/`.  Validation is a tenth of the
training images, about 5,000, by their hashes: the same in every run, and other images in a copy of other pixels (JPEG).
The published sets hold some images twice, so a few of val and test are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from image_data.labels import ClassLabels
from image_data.real.dataset import RealData, assemble
from image_data.real.decoding import RESIZING, check_shape_request, reshape_pixels
from image_data.real.folder import load_image_folder
from image_data.real.registry import REAL_DATASETS
from image_data.real.request import LoadRequest, only_fold
from image_data.real.roles import split_missing
from image_data.seen import image_hashes
from image_data.sources import ArraySource
from runtime.errors import UserError

_AUGMENTATIONS = ("flip", "translate")
_VAL_SHARE = 0.1


@REAL_DATASETS.register("cifar10")
def load_cifar10(request: LoadRequest) -> RealData:
    """Mirrors and shifts are allowed.  With `download`, torchvision fetches its copy where nothing is there yet."""
    only_fold(request)
    check_shape_request(request.resolution_px, request.channels, "cifar10")
    if request.augmentations is not None:
        raise UserError("cifar10 says itself which augmentations keep its labels; leave the option out.")
    root = data_root()
    folder = root / "cifar10"
    if folder.is_dir():
        return load_image_folder(folder, "cifar10", request, _AUGMENTATIONS, _VAL_SHARE)
    parts = {role: _torchvision_part(root, role == "train", request.download) for role in ("train", "test")}
    sources = {
        role: ArraySource(
            reshape_pixels(pixels, request.resolution_px, request.channels, "cifar10"), labels, image_hashes(pixels)
        )
        for role, (pixels, labels, _) in parts.items()
    }
    split = split_missing(sources, "cifar10", _VAL_SHARE)
    resized = request.resolution_px not in (None, 32)
    notes = {"source": "torchvision", "split_off": ["val"], "resizing": RESIZING if resized else "none"}
    label_space = ClassLabels(parts["train"][2])
    return assemble(
        "cifar10", label_space, split.roles, _AUGMENTATIONS, request.real_per_class, request.seed, notes, split.remarks
    )


def data_root() -> Path:
    """Where datasets that are known by name lie."""
    return Path(os.environ.get("RETORT_DATA_DIR") or "data")


def cifar10_is_here() -> bool:
    """Whether either copy lies below the data folder."""
    return any((data_root() / name).is_dir() for name in ("cifar10", "cifar-10-batches-py"))


def _torchvision_part(root: Path, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10  # here, since only this dataset needs it

    try:
        # Its files are pickles; torchvision opens them only when their published MD5 sums match.
        part = CIFAR10(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise UserError(f"cifar10 could not be downloaded to {root} ({error}); check the network.") from error
        raise UserError(
            f"cifar10 is not in {root} (nor is a whole torchvision copy); add --download, or unpack an image folder "
            f"with train/ and test/ as {root / 'cifar10'}, or set RETORT_DATA_DIR."
        ) from error
    pixels = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return pixels, np.array(part.targets, dtype=np.int64), tuple(part.classes)

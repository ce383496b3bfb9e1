"""Real datasets by name or by path: `load_real("digits")`, `load_real("photos/")`, `load_real("RC-49_64x64_25.h5")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from image_data.real.cifar10 import cifar10_is_here
from image_data.real.dataset import RealData
from image_data.real.folder import load_folder
from image_data.real.hdf5 import load_hdf5
from image_data.real.registry import REAL_DATASETS
from image_data.real.request import LoadRequest
from runtime.errors import UserError


def load_real(
    name: str | Path,
    *,
    fold: int = 0,
    resolution_px: int | None = None,
    channels: int | None = None,
    real_per_class: int | None = None,
    seed: int = 0,
    download: bool = False,
    augmentations: Sequence[str] | None = None,
) -> RealData:
    """Load, check and split a dataset into memory.

    `name`: an entry of REAL_DATASETS, the path of an image folder or .zip archive, or the path of an HDF5 file.
    `fold`: which of the dataset's splits (digits have 0, 1 and 2; all others 0 only).  Splits never depend on `seed`.
    `resolution_px`, `channels` (1 or 3): None keeps what the data have.
    `real_per_class`: keep this many training images of each class, drawn by `seed`; val and test stay whole.
    `download`: allow the network where the dataset can be fetched.
    `augmentations`: what keeps the labels of a folder or HDF5 file; without it none, or what its description states.
    UserError naming file or option: see the loaders.
    """
    asked = None if augmentations is None else tuple(augmentations)
    request = LoadRequest(str(name), fold, resolution_px, channels, real_per_class, seed, download, asked)
    if request.name in REAL_DATASETS:
        return REAL_DATASETS.get(request.name)(request)
    path = Path(request.name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return load_folder(request)
    if path.is_file():
        if path.suffix.lower() not in (".h5", ".hdf5"):
            raise UserError(f"{path} is no folder, no .zip archive and no .h5 file; give one of these.")
        return load_hdf5(request)
    raise UserError(
        f"dataset {request.name!r} is neither a known name ({', '.join(REAL_DATASETS)}) nor a folder, a .zip archive "
        "or an .h5 file."
    )


def is_here(name: str | Path) -> bool:
    """Whether `load_real(name)` needs no network."""
    return str(name) != "cifar10" or cifar10_is_here()


__all__ = ["REAL_DATASETS", "LoadRequest", "RealData", "is_here", "load_real"]

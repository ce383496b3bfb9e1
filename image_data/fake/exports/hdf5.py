"""One HDF5 file as the original cGAN-KD trainers read it: `fake_images` and `fake_labels`."""

from __future__ import annotations

import glob
from pathlib import Path

import h5py
import numpy as np

from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.selection import Selection
from image_data.fake.view import FakeView
from runtime.atomic import commit_new_file, disk_errors, temporary_name
from runtime.errors import UserError
from runtime.locks import exclusive_lock
from runtime.os_errors import named
from runtime.progress import progress

_BYTES_AT_ONCE = 16 << 20


def export_h5(path: Path, out_file: Path, selection: Selection | None = None, gzip_level: int | None = None) -> Path:
    """Write uint8 `fake_images` N x C x H x W and `fake_labels` N (class index, or label in the user's units).

    Rows stand in the order of the dataset, or of the selection; memory stays constant.  `gzip_level` 0 to 9 compresses
    the images (the original files use 6); None stores them plain.  UserError where `out_file` exists or another process
    is exporting to it: nothing is overwritten.
    """
    fakes = path if isinstance(path, FakeDataset) else open_fakes(path)
    out_file = Path(out_file)
    refusal = f"{out_file} exists; remove it or export to another file."
    if out_file.exists():
        raise UserError(refusal)
    view = fakes.view(selection)
    lock = out_file.with_name(f".{out_file.name}.lock")
    try:
        with disk_errors(out_file), exclusive_lock(lock, f"another process is exporting to {out_file}; wait for it."):
            try:
                _export(out_file, view, gzip_level)
            finally:
                lock.unlink(missing_ok=True)
    except FileExistsError as error:
        raise UserError(refusal) from error
    return out_file


def _export(out_file: Path, view: FakeView, gzip_level: int | None) -> None:
    for left in out_file.parent.glob(f".{glob.escape(out_file.name)}.*.tmp"):  # by a process that was killed
        left.unlink(missing_ok=True)
    temporary = temporary_name(out_file)
    try:
        with named(out_file):
            _write(temporary, view, gzip_level)
        commit_new_file(temporary, out_file)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, view: FakeView, gzip_level: int | None) -> None:
    shape = (len(view), *view.fakes.image_shape)
    block = max(1, _BYTES_AT_ONCE // int(np.prod(view.fakes.image_shape)))
    if gzip_level is not None:
        block -= block % 64 if block >= 64 else 0  # whole chunks, so that each is compressed once
    chunks = None if gzip_level is None else (min(64, max(1, len(view))), *shape[1:])
    compression = {} if gzip_level is None else {"compression": "gzip", "compression_opts": gzip_level}
    with h5py.File(path, "w") as file, progress("exporting", len(view)) as bar:
        images = file.create_dataset(
            "fake_images", shape=shape, dtype=np.uint8, chunks=chunks, track_times=False, **compression
        )
        for start in range(0, len(view), block):
            rows = np.arange(start, min(start + block, len(view)))
            images[start : start + len(rows)] = view.images(rows)
            bar.advance(len(rows))
        file.create_dataset("fake_labels", data=view.labels, track_times=False)

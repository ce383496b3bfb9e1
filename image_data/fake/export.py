"""One HDF5 file as the original cGAN-KD trainers read it: `fake_images` and `fake_labels`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.selection import Selection
from runtime.atomic import commit_file
from runtime.errors import UserError
from runtime.progress import progress

_BYTES_AT_ONCE = 16 << 20


def export_h5(path: Path, out_file: Path, selection: Selection | None = None, gzip_level: int | None = None) -> Path:
    """Write uint8 `fake_images` N x C x H x W and `fake_labels` N (class index, or label in the user's units).

    Rows stand in the order of the dataset, or of the selection; memory stays constant.  `gzip_level` 0 to 9 compresses
    the images (the original files use 6); None stores them plain.  UserError where `out_file` exists.
    """
    fakes = path if isinstance(path, FakeDataset) else open_fakes(path)
    out_file = Path(out_file)
    if out_file.exists():
        raise UserError(f"{out_file} exists; remove it or export to another file.")
    view = fakes.view(selection)
    labels = view.labels
    out_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_file.with_name(f".{out_file.name}.export.tmp")
    block = max(1, _BYTES_AT_ONCE // int(np.prod(fakes.image_shape)))
    if gzip_level is not None:
        block -= block % 64 if block >= 64 else 0  # whole chunks, so that each is compressed once
    try:
        with h5py.File(temporary, "w") as file, progress("exporting", len(view)) as bar:
            shape = (len(view), *fakes.image_shape)
            chunks = None if gzip_level is None else (min(64, max(1, len(view))), *fakes.image_shape)
            compression = {} if gzip_level is None else {"compression": "gzip", "compression_opts": gzip_level}
            images = file.create_dataset(
                "fake_images", shape=shape, dtype=np.uint8, chunks=chunks, track_times=False, **compression
            )
            for start in range(0, len(view), block):
                rows = np.arange(start, min(start + block, len(view)))
                images[start : start + len(rows)] = view.images(rows)
                bar.advance(len(rows))
            file.create_dataset("fake_labels", data=labels, track_times=False)
        commit_file(temporary, out_file)
    finally:
        temporary.unlink(missing_ok=True)
    return out_file

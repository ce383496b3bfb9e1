"""One HDF5 file as the original cGAN-KD trainers read it: `fake_images` and `fake_labels`."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np

from image_data.fake.dataset import FakeDataset
from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat
from image_data.fake.exports.rows import ExportRows
from image_data.fake.exports.writing import export_fakes
from image_data.fake.selection import Selection

_CHUNK = 64  # images
_HEADER_BYTES = 4096


@EXPORT_FORMATS.register("h5")
class Hdf5Format(ExportFormat):
    """uint8 `fake_images` N x C x H x W and `fake_labels` N (class index, or label in the user's units)."""

    suffix = ".h5"

    def __init__(self, gzip_level: int | None = None) -> None:
        self.gzip_level = gzip_level

    def bytes_needed(self, rows: ExportRows) -> int:
        """Exact but for the header, where nothing is compressed."""
        return len(rows) * math.prod(rows.image_shape) + rows.columns["label"].nbytes + _HEADER_BYTES

    def write(self, place: Path, rows: ExportRows) -> None:
        shape = (len(rows), *rows.image_shape)
        compression = {} if self.gzip_level is None else {
            "chunks": (min(_CHUNK, len(rows)), *rows.image_shape), "compression": "gzip",
            "compression_opts": self.gzip_level,
        }  # fmt: skip
        with h5py.File(place, "w") as file:
            images = file.create_dataset("fake_images", shape=shape, dtype=np.uint8, track_times=False, **compression)
            for block in rows.blocks():
                images[block.start : block.start + len(block.images)] = block.images
            file.create_dataset("fake_labels", data=rows.columns["label"], track_times=False)


def export_h5(
    path: Path | FakeDataset, out_file: Path, selection: Selection | None = None, gzip_level: int | None = None
) -> Path:
    """`export_fakes` to one .h5 file, with rows in the order of the dataset, or of the selection.

    `gzip_level` 0 to 9 compresses the images (the original files use 6); None stores them plain.
    """
    return export_fakes(path, out_file, Hdf5Format(gzip_level), selection)

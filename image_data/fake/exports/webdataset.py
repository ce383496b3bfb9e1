"""Tar files for streaming, as `webdataset` and `datasets` read them: PNG, class index and JSON of each sample."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np

from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat
from image_data.fake.exports.rows import ExportRows, png_bytes

_TAR_BLOCK = 512  # every entry has a header of one, and fills whole ones
_TAR_RECORD = 10_240  # of which a file is a whole number


@EXPORT_FORMATS.register("webdataset")
class WebDatasetFormat(ExportFormat):
    """`fakes-000000.tar`, ...; rows in a drawn order, since a stream is shuffled within a small buffer only."""

    shuffled = True

    def bytes_needed(self, rows: ExportRows) -> int:
        """Each sample is three entries, or two where labels are continuous."""
        small = 2 if rows.class_names is None else 4
        blocks = np.ceil(rows.png_sizes / _TAR_BLOCK).mean() + 1 + small
        return math.ceil(len(rows) * blocks * _TAR_BLOCK) + rows.shard_count * _TAR_RECORD

    def write(self, place: Path, rows: ExportRows) -> None:
        for number, blocks in enumerate(rows.shards()):
            with tarfile.open(place / _shard_name(number), "w") as shard:
                for block in blocks:
                    for row, image, record in block:
                        _add(shard, f"{row:08d}.png", png_bytes(image))
                        if rows.class_names is not None:
                            _add(shard, f"{row:08d}.cls", str(record["label"]).encode())
                        _add(shard, f"{row:08d}.json", json.dumps(record).encode())

    def how_to_read(self, name: str, rows: ExportRows) -> str:
        last = f"..{rows.shard_count - 1:06d}" if rows.shard_count > 1 else ""
        files = f"{name}/fakes-{{000000{last}}}.tar" if last else f"{name}/{_shard_name(0)}"
        label = "json" if rows.class_names is None else "cls"
        return (
            f'webdataset.WebDataset("{files}", shardshuffle=False).decode("torchrgb8").to_tuple("png", "{label}")\n'
            f'datasets.load_dataset("webdataset", data_files="{name}/*.tar", split="train")'
        )


def _shard_name(number: int) -> str:
    return f"fakes-{number:06d}.tar"


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))

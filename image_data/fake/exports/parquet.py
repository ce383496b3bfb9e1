"""Parquet files as the Hugging Face hub keeps them: `datasets.load_dataset(FOLDER)` gives images and named classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat
from image_data.fake.exports.rows import ExportRows, png_bytes

_ROW_BYTES = 40  # beside the image: label, row, k, ...
_FILE_BYTES = 4096


@EXPORT_FORMATS.register("parquet")
class ParquetFormat(ExportFormat):
    """`data/train-00000-of-0000N.parquet`; rows in a drawn order, since a stream is shuffled within a buffer only."""

    shuffled = True
    packages = ("pyarrow",)

    def bytes_needed(self, rows: ExportRows) -> int:
        """PNG data is not compressed further."""
        image = float(rows.png_sizes.mean())
        return math.ceil(len(rows) * (image + _ROW_BYTES)) + rows.shard_count * _FILE_BYTES

    def write(self, place: Path, rows: ExportRows) -> None:
        import pyarrow
        from pyarrow import parquet

        (place / "data").mkdir()
        for number, blocks in enumerate(rows.shards()):
            path = place / "data" / f"train-{number:05d}-of-{rows.shard_count:05d}.parquet"
            writer = None
            try:
                for block in blocks:
                    images = [{"bytes": png_bytes(image), "path": f"{row:08d}.png"} for row, image, _ in block]
                    columns = {name: list(column) for name, column in block.columns.items()}
                    table = pyarrow.table({"image": images, **columns})
                    table = table.replace_schema_metadata({"huggingface": json.dumps(_features(rows))})
                    writer = writer or parquet.ParquetWriter(path, table.schema)
                    writer.write_table(table)
            finally:
                if writer is not None:
                    writer.close()

    def how_to_read(self, name: str, rows: ExportRows) -> str:
        return (
            f'datasets.load_dataset("{name}", split="train")  # or load_dataset("parquet", data_files="{name}/data/*")'
        )


def _features(rows: ExportRows) -> dict[str, Any]:
    """What Arrow's types do not say, as `datasets` reads it from a schema: the images, and the names of the classes."""
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if rows.class_names is not None:
        named = {"_type": "ClassLabel", "names": list(rows.class_names)}
        features |= {name: named for name in ("label", "asked_label") if name in rows.columns}
    return {"info": {"features": features}}

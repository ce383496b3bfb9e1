"""PNG files in class folders, as torchvision's ImageFolder and `datasets` read them.

Beside the images: `metadata.jsonl` (Hugging Face), `labels.csv` for continuous labels, and `dataset.json` with the
label space, so that `--data` reads the folder back with the labels that it was exported with.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat
from image_data.fake.exports.rows import ExportRows, png_bytes
from runtime.atomic import json_bytes
from runtime.progress import note

_PAGE_BYTES = 4096  # what a file takes at least
_FILES_OF_A_FOLDER = 10_000
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")


@EXPORT_FORMATS.register("imagefolder")
class ImageFolderFormat(ExportFormat):
    """A folder a class; ImageFolder's class index is the label, unless a class has no image."""

    def bytes_needed(self, rows: ExportRows) -> int:
        """A whole number of pages a file, and the line of metadata."""
        pages = np.ceil(rows.png_sizes / _PAGE_BYTES).mean()
        return math.ceil(len(rows) * (pages * _PAGE_BYTES + 200))

    def write(self, place: Path, rows: ExportRows) -> None:
        folders = _folders(rows)
        with open(place / "metadata.jsonl", "w") as metadata:
            for block in rows.blocks():
                for number, image, record in block:
                    name = _file_name(number, record["label"], folders)
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    (place / name).write_bytes(png_bytes(image))
                    metadata.write(json.dumps({"file_name": name, **record}) + "\n")
        if folders is None:
            _write_label_table(place / "labels.csv", rows)
        (place / "dataset.json").write_bytes(json_bytes(_description(rows)))

    def how_to_read(self, name: str, rows: ExportRows) -> str:
        lines = [f'datasets.load_dataset("imagefolder", data_dir="{name}", split="train")  # metadata.jsonl']
        if rows.class_names is not None:
            lines.insert(0, f'torchvision.datasets.ImageFolder("{name}")')
        return "\n".join(lines)


def class_folders(names: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class, such that their alphabetical order is that of the classes.

    The class names themselves where they allow it, else with the class index before them.
    """
    if list(names) == sorted(set(names)) and all(map(_PLAIN.fullmatch, names)):
        return tuple(names)
    digits = len(str(len(names) - 1))
    return tuple(f"{index:0{digits}d}_{_NOT_PLAIN.sub('_', name)[:80]}" for index, name in enumerate(names))


def _folders(rows: ExportRows) -> tuple[str, ...] | None:
    """Folder by label; None for continuous labels."""
    if rows.class_names is None:
        return None
    missing = len(rows.class_names) - len(np.unique(rows.columns["label"]))
    if missing:
        note(
            f"{missing} of {len(rows.class_names)} classes have no image, and ImageFolder numbers the others anew; "
            "metadata.jsonl has their labels"
        )
    return class_folders(rows.class_names)


def _file_name(number: int, label: Any, folders: Sequence[str] | None) -> str:
    folder = f"images/{number // _FILES_OF_A_FOLDER:05d}" if folders is None else folders[label]
    return f"{folder}/{number:08d}.png"


def _write_label_table(path: Path, rows: ExportRows) -> None:
    labels = rows.columns["label"].reshape(len(rows), -1)
    names = ["label"] if labels.shape[1] == 1 else [f"label_{number}" for number in range(labels.shape[1])]
    with open(path, "w") as table:
        table.write(",".join(["path", *names]) + "\n")
        for number, values in enumerate(labels):
            table.write(",".join([_file_name(number, None, None), *map(repr, values.tolist())]) + "\n")


def _description(rows: ExportRows) -> dict[str, Any]:
    """`dataset.json` as `image_data.real.description` reads it; names of classes without images stay out."""
    space = rows.label_space.to_json()
    if rows.class_names is None:
        return {"label_kind": "continuous", "unit": space["unit"], "low": space["low"], "high": space["high"]}
    present = np.unique(rows.columns["label"]).tolist()
    return {"label_kind": "classes", "class_names": [rows.class_names[label] for label in present]}

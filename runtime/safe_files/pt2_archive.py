"""Reading a torch.export archive (.pt2) without torch.export.load, which unpickles and evaluates what the file says.

Taken out of the zip are the program's JSON and raw bytes of tensors, nothing else: no pickle is read, no expression is
evaluated, nothing is unpacked to disk.  Sample inputs are pickled by torch itself; they are never opened.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError

# torch._export.serde.schema.ScalarType, of which the numbers are part of the format
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
SCHEMA_MAJOR = 8  # since torch 2.5
_STRIDED = 7
_NAME = r"[A-Za-z0-9_.\-]{1,100}"
# What torch writes beside the model: versions, byte order, weights, constants, sample inputs and the user's own notes.
_KNOWN = re.compile(
    rf"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|\.format_version|"
    rf"\.storage_alignment|models/{_NAME}\.json|data/weights/(weight_\d+|{_NAME}_weights_config\.json)|"
    rf"data/constants/(tensor_\d+|{_NAME}_constants_config\.json)|data/sample_inputs/{_NAME}\.pt|extra/{_NAME}"
)
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
           NotImplementedError, RuntimeError, OverflowError, EOFError)  # fmt: skip


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(the exported program's JSON, its parameters, buffers and constants by name, on the CPU).

    UserError naming the file where it is damaged, or holds anything that could run code or needs another reader.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore it or import the teacher again.") from error
    except _DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(".")
        raise UserError(f"{path} is damaged or is no torch.export program ({reason}); export it again.") from error


def _read(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    entries = _entries(archive, path)
    models = [name for name in entries if name.startswith("models/")]
    if len(models) != 1 or archive.read(entries.get("archive_format", "archive_format")) != b"pt2":
        raise UserError(f"{path} does not hold one exported program; save it with torch.export.save (torch 2.8 on).")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise UserError(f"{path} was written on a machine of another byte order; export it on this kind of machine.")
    model = models[0].removeprefix("models/").removesuffix(".json")
    program = json.loads(archive.read(entries[models[0]]))
    if program["schema_version"]["major"] != SCHEMA_MAJOR:
        raise UserError(
            f"{path} has version {program['schema_version']['major']} of the format, and this program reads version "
            f"{SCHEMA_MAJOR}; export it with another version of torch."
        )
    tensors: dict[str, torch.Tensor] = {}
    for kind in ("weights", "constants"):
        config = json.loads(archive.read(entries[f"data/{kind}/{model}_{kind}_config.json"]))["config"]
        stored: dict[str, bytearray] = {}
        for name, entry in config.items():
            if name in tensors:
                raise ValueError(f"two tensors {name[:60]!r}")
            file = f"data/{kind}/{entry['path_name']}"
            if entry["use_pickle"] is not False or file not in entries:
                raise UserError(
                    f"{path} is refused: {name[:60]!r} is stored as a pickle, which could run code; export the "
                    f"generator with plain tensors."
                )
            if file not in stored:
                stored[file] = bytearray(archive.read(entries[file]))
            tensors[name] = _tensor(stored[file], entry["tensor_meta"])
    return program, tensors


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Name below the archive's own folder -> entry; only known names, each once, none compressed."""
    entries: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    size = path.stat().st_size
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        if ".." in info.filename.split("/") or not _KNOWN.fullmatch(name):
            raise UserError(
                f"{path} is refused: it holds {info.filename[:100]!r}, which is no part of a plain exported program; "
                f"export it with torch.export.save."
            )
        if name in entries:
            raise UserError(f"{path} is refused: it holds {name[:100]!r} twice; export it again.")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or not info.file_size <= size:
            raise UserError(f"{path} is refused: {name[:100]!r} is compressed, encrypted or larger than the file.")
        entries[name] = info
    if len(roots) != 1 or sum(info.file_size for info in entries.values()) > size:
        raise UserError(f"{path} is no torch.export program; save it with torch.export.save (torch 2.8 on).")
    return entries


def _tensor(data: bytearray, meta: Mapping[str, Any]) -> torch.Tensor:
    """A tensor over bytes of its own, or shared with its views; ValueError where it would reach beyond them."""
    dtype = DTYPES[meta["dtype"]]
    if meta["layout"] != _STRIDED:
        raise ValueError("a tensor is not strided")
    sizes, strides = [_number(size) for size in meta["sizes"]], [_number(stride) for stride in meta["strides"]]
    offset = _number(meta["storage_offset"])
    if len(sizes) != len(strides):
        raise ValueError("sizes and strides differ in number")
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if (last + 1) * dtype.itemsize > len(data):
        raise ValueError("a tensor is longer than its bytes")
    return torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize).as_strided(sizes, strides, offset)


def _number(value: Mapping[str, Any]) -> int:
    number = value["as_int"]
    if type(number) is not int or number < 0:
        raise ValueError("a size is no number")
    return number

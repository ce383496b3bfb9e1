"""Mutated and hostile files of every format: each is refused in one sentence or loaded, and none hangs or crashes."""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save

from runtime.errors import UserError
from runtime.safe_files.state_dicts import read_tensors
from teacher_sampler.black_box.program_importing import import_exported, import_onnx
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import import_stylegan2_ada
from tests.support.program_models import LATENT, Conv, export_pt2, linear_onnx
from tests.support.stylegan2_snapshots import random_plain, snapshot_bytes

QUICKLY_S = 120.0  # what takes a second or two here
ABC = ("a", "b", "c")
STATE = {f"layer{index}.weight": torch.arange(12.0).reshape(3, 4) for index in range(4)}


def _saved(zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"G_ema": STATE, "iteration": 3}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _program(folder: Path, kind: str) -> bytes:
    path = folder / f"good.{kind}"
    if kind == "onnx":
        return linear_onnx(path, ("y", TensorProto.INT64, ["N"])).read_bytes()
    return export_pt2(Conv(), (torch.zeros(2, LATENT), torch.zeros(2, dtype=torch.int64)), path).read_bytes()


READERS: dict[str, Callable[[Path], object]] = {
    "pth": lambda path: read_tensors(path, ("G_ema",)),
    "old.pth": lambda path: read_tensors(path, ("G_ema",)),
    "safetensors": read_tensors,
    "pkl": lambda path: import_stylegan2_ada(ImportRequest(str(path))),
    "onnx": lambda path: import_onnx(ImportRequest(str(path), class_names=ABC)),
    "pt2": lambda path: import_exported(ImportRequest(str(path), class_names=ABC)),
}


def _good(folder: Path, kind: str) -> bytes:
    if kind in ("pth", "old.pth"):
        return _saved(kind == "pth")
    if kind == "safetensors":
        return save(STATE)
    return snapshot_bytes(random_plain()) if kind == "pkl" else _program(folder, kind)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, cut, doubled and moved pieces, huge numbers."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found))
        kind = rng.randrange(6)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + 8] = rng.choice((b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8)))
        elif kind == 2:
            del found[at : at + rng.randrange(1, 60)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randrange(1, 200)]
        elif kind == 4:
            found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif rng.random() < 0.3:
            del found[at:]
        found = found or bytearray(b"\0")
    return bytes(found)


def _repacked(data: bytes, rng: random.Random) -> bytes:
    """An archive one of whose entries was mutated, with right checksums, so that what lies behind them is met."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    chosen = max(entries, key=lambda name: rng.random() + name.endswith((".pkl", ".json")))
    entries[chosen] = _mutated(entries[chosen] or b"\0", rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def met(folder: Path, kind: str, count: int) -> tuple[int, int]:
    """(refused, loaded) of so many mutations."""
    data, rng = _good(folder, kind), random.Random(kind)
    path = folder / f"mutated.{kind}"
    refused = 0
    for index in range(count):
        repack = index % 2 and kind in ("pth", "pt2")
        path.write_bytes(_repacked(data, rng) if repack else _mutated(data, rng))
        begin = time.perf_counter()
        try:
            READERS[kind](path)
        except UserError as error:
            refused += 1
            message = str(error)
        else:
            message = path.name
        assert "\n" not in message
        assert path.name in message
        assert len(message) < len(str(path)) * 3 + 900
        assert time.perf_counter() - begin < QUICKLY_S
    return refused, count - refused


@pytest.mark.parametrize("kind", READERS)
def test_mutated_files_are_refused_or_loaded(kind: str, tmp_path: Path) -> None:
    READERS[kind](_written(tmp_path / f"good.{kind}", _good(tmp_path, kind)))
    refused, loaded = met(tmp_path, kind, 12 if kind in ("onnx", "pt2") else 40)
    assert refused > loaded / 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_mutated_files_are_refused_or_loaded(kind: str, tmp_path: Path) -> None:
    refused, loaded = met(tmp_path, kind, 300)
    print(f"{kind}: {refused} refused, {loaded} loaded")
    assert refused > 60


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path

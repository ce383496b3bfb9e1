"""Snapshots of the published structure made from small random networks, and an assembler for hostile pickles."""

from __future__ import annotations

import io
import pickle
import random
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import plain_stylegan2 as plain

TINY: dict[str, Any] = {
    "z_dim": 5,
    "c_dim": 3,
    "w_dim": 6,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 32, "channel_max": 7, "num_fp16_res": 4, "conv_clamp": 256},
}
SOURCE_TEXT = "raise RuntimeError('the text of a snapshot was run')"
CLASS_NAMES = {
    plain.PlainStyleGAN2: "Generator",
    plain.MappingLayers: "MappingNetwork",
    plain.Synthesis: "SynthesisNetwork",
    plain.Block: "SynthesisBlock",
    plain.Layer: "SynthesisLayer",
    plain.ToRGB: "ToRGBLayer",
    plain.FullyConnected: "FullyConnectedLayer",
}


def random_plain(seed: int = 0, **changes: Any) -> plain.PlainStyleGAN2:
    """A network without a quantity that is zero or one and so would not be missed."""
    generator = torch.Generator().manual_seed(seed)
    network = plain.PlainStyleGAN2(**{**TINY, **changes}).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if not name.endswith("resample_filter"):
            spread = tensor.std() if tensor.numel() > 1 and tensor.std() > 0 else 1.0
            tensor.add_(0.3 * spread * torch.randn(tensor.shape, generator=generator))
    return network


class EasyDict(dict):
    """Stands for the original program's dictionary with attributes."""


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise RuntimeError("the original program's loader was called")


@contextmanager
def _pretended_modules() -> Iterator[None]:
    """The names under which the original program's things are pickled, for as long as the pickler looks them up."""
    things: dict[str, Any] = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    before = {name: sys.modules.get(name) for name in ("torch_utils", "dnnlib", *things)}
    sys.modules |= {name: types.ModuleType(name) for name in before}
    for name, thing in things.items():
        thing.__module__ = name
        setattr(sys.modules[name], thing.__name__, thing)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    """Writes modules as the original program does: class name, source text and `__dict__`."""

    def __init__(self, file: io.BytesIO, protocol: int, kwargs: Mapping[str, Any]) -> None:
        super().__init__(file, protocol)
        self.kwargs = kwargs

    def reducer_override(self, thing: Any) -> Any:
        if not isinstance(thing, nn.Module):
            return NotImplemented
        outermost = isinstance(thing, plain.PlainStyleGAN2)
        state = {**vars(thing), "weight_gain": np.float64(0.5), "_init_args": (), "_init_kwargs": {}}
        if outermost:
            state["_init_kwargs"] = dict(self.kwargs)
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE_TEXT,
            "class_name": CLASS_NAMES[type(thing)],
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)


def snapshot_bytes(network: nn.Module, protocol: int = 4, **changes: Any) -> bytes:
    """A whole snapshot: `network` as G_ema, another one as G.  `changes` to the generator's arguments in the file."""
    kwargs = {**TINY, **changes}
    for name in ("mapping_kwargs", "synthesis_kwargs"):
        if isinstance(kwargs[name], dict):
            kwargs[name] = EasyDict(kwargs[name])
    entries = {
        "training_set_kwargs": {
            "class_name": "training.dataset.ImageFolderDataset",
            "path": "/home/x.zip",
            "xflip": True,
        },
        "G": random_plain(seed=99),
        "D": None,
        "G_ema": network,
        "augment_pipe": None,
    }
    file = io.BytesIO()
    with _pretended_modules():
        _Pickler(file, protocol, kwargs).dump(entries)
    return file.getvalue()


def write_snapshot(path: Path, network: nn.Module, protocol: int = 4, **changes: Any) -> Path:
    """The same as a file."""
    path.write_bytes(snapshot_bytes(network, protocol, **changes))
    return path


class Raw(bytes):
    """Opcodes as they are."""


class Call:
    """A REDUCE of a name."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


def assemble(value: Any) -> bytes:
    """The opcodes (protocol 2 and 3) that push a value; no header and no STOP."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Call):
        return f"c{value.module}\n{value.name}\n".encode() + assemble(value.arguments) + b"R"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(assemble, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(assemble, value)) + b"e"
    return b"}(" + b"".join(assemble(item) for pair in value.items() for item in pair) + b"u"


def pickled(value: Any, protocol: int = 3) -> bytes:
    """A complete pickle."""
    return b"\x80" + bytes([protocol]) + assemble(value) + b"."


def storage_bytes(values: list[float], kind: str = "FloatStorage", said: int | None = None, **changes: Any) -> bytes:
    """One torch storage in the old container; `said` (its count) and `changes` to its parts make it lie."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    said = len(values) if said is None else said
    description = assemble(("storage", Raw(b"ctorch\n" + kind.encode() + b"\n"), "1234", "cpu", said, None))
    parts = {
        "magic": _MAGIC,
        "version": pickled(1001, 2),
        "system": pickled(system, 2),
        "description": b"\x80\x02" + description + b"Q.",
        "keys": pickled(["1234"], 2),
        "count": struct.pack("<q", said),
        "data": np.array(values, "<f4").tobytes(),
    }
    return b"".join({**parts, **changes}.values())


_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


def module(class_name: str = "Generator", **state: Any) -> Call:
    """A persistent object."""
    meta = {"type": "class", "version": 6, "module_src": SOURCE_TEXT, "class_name": class_name, "state": state}
    return Call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Call:
    """A tensor over a storage's bytes."""
    loaded = Call("torch.storage", "_load_from_bytes", storage) if isinstance(storage, bytes) else storage
    return Call("torch._utils", "_rebuild_tensor_v2", loaded, offset, size, stride, False, None)


def shared(levels: int) -> Raw:
    """Modules each of which holds the one before it twice: 2**levels paths through so many objects."""
    before = assemble(module()) + b"q\x00"
    for level in range(levels):
        twice = module("Other", _modules={"a": Raw(b"h" + bytes([level])), "b": Raw(b"h" + bytes([level]))})
        before += assemble(twice) + b"q" + bytes([level + 1])
    return Raw(b"](" + before + b"e")


def mutated(original: bytes, positions: list[int], rng: random.Random, payload: bytes) -> bytes:
    """Flipped bits, cut, doubled and moved pieces, foreign opcodes; half of it at the beginning of an opcode."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.choice(positions) if rng.random() < 0.7 else rng.randrange(len(data))
        at = min(at, len(data) - 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at:at] = payload
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif kind == 4:
            del data[at : at + rng.randrange(1, 40)]
        else:
            source = rng.choice(positions)
            data[at : at + rng.randrange(2) * 20] = original[source : source + rng.randrange(1, 200)]
    return bytes(data)

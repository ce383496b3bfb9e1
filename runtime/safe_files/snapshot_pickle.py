"""StyleGAN2-ADA snapshots (`network-snapshot-*.pkl`) as plain data, without running anything that is in them.

A snapshot is a pickle of whole modules, with the text of their source files, which the original program executes.
Here a module becomes a name and a dictionary; its text is dropped, and its tensors are views of the file's bytes,
bounds checked, until they are asked for.  Only the names listed in `_KNOWN` may occur.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.safe_files.pickle_machine import (
    LONGEST_NAME,
    Adjustable,
    Budget,
    Damaged,
    FindKnown,
    Known,
    PickleMachine,
    Refused,
    checked_set,
)
from runtime.safe_files.plain import check_fits_memory

MOST_STEPS = 300_000  # the largest published networks take some 50,000
MOST_BYTES = 4 << 30
MOST_MODULES, DEEPEST_MODULE = 10_000, 8
MOST_DIMENSIONS = 8

_MODULE_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
_STORAGE_MAGIC, _STORAGE_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {  # torch's old storage classes -> little-endian numbers
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SCALARS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}
_UNREADABLE: tuple[type[Exception], ...] = (
    Refused, Damaged, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError,
    RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class SavedModule:
    """A network or layer of the snapshot: the name of its class and its `__dict__`."""

    class_name: str
    state: dict[str, Any]

    def has_inner(self, class_name: str) -> bool:
        """Whether a module of this class lies in it, or in one of these."""
        return any(module.class_name == class_name for module in self._inner())

    def inner_says(self, class_name: str, attribute: str) -> bool:
        """Whether a module of this class in it has the attribute."""
        return any(module.class_name == class_name and attribute in module.state for module in self._inner())

    def _inner(self) -> list[SavedModule]:
        """Two levels down: the synthesis network, its input and its blocks."""
        modules: list[SavedModule] = []
        level = [self]
        for _ in range(2):
            parts = [module.state.get("_modules") for module in level[:MOST_MODULES]]
            level = [inner for part in parts if type(part) is dict for inner in part.values()]
            level = [inner for inner in level if isinstance(inner, SavedModule)]
            modules += level
        return modules


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot:
    """What a snapshot holds: entry name -> plain data, tensors as views, and modules."""

    path: Path
    size: int  # bytes of the file
    entries: dict[str, Any]

    def module(self, name: str, class_name: str) -> SavedModule:
        """An entry that must be a module of this class; UserError where it is not."""
        entry = self.entries.get(name)
        if not isinstance(entry, SavedModule) or entry.class_name != class_name:
            raise UserError(
                f"{self.path} is no snapshot of StyleGAN2-ADA (it has no {name} of class {class_name}); "
                "give a network-snapshot file of its training."
            )
        return entry

    def modules(self) -> dict[str, SavedModule]:
        """Every network by the name of its entry."""
        return {name: entry for name, entry in self.entries.items() if isinstance(entry, SavedModule)}

    def tensors(self, module: SavedModule) -> dict[str, torch.Tensor]:
        """The module's state dict: name -> float32 copy, parameters before buffers.  UserError where it has none."""
        try:
            views = dict(_walk(module))
            if sum(view.size * view.itemsize for view in views.values()) > self.size:
                raise Damaged("it has larger tensors than bytes")
            with np.errstate(over="ignore"):  # infinities are for the caller to find
                return {name: torch.from_numpy(np.array(view, "float32", order="C")) for name, view in views.items()}
        except _UNREADABLE as error:
            raise _refusal(self.path, error) from error


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file.  UserError naming it where it is damaged, another kind of file, or names anything that
    no snapshot needs."""
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; give a network-snapshot file.")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise Refused(f"it is larger than {MOST_BYTES >> 30} GiB")
        check_fits_memory(path, size, "free some, or import it on a larger machine")
        budget = Budget(MOST_STEPS, copied_bytes=size)
        entries = PickleMachine(memoryview(path.read_bytes()), _finder(budget), budget).load()
        if type(entries) is not dict or not all(type(name) is str for name in entries):
            raise Damaged("it holds no named networks")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a network-snapshot file.") from error
    except _UNREADABLE as error:
        raise _refusal(path, error) from error
    return Snapshot(path, size, entries)


def _refusal(path: Path, error: Exception) -> UserError:
    if isinstance(error, _TensorFlow):
        return UserError(
            f"{path} is a network of the original TensorFlow program, which cannot be read here; convert it with "
            "StyleGAN2-ADA's legacy.py to a PyTorch snapshot and give that."
        )
    if isinstance(error, Refused):
        return UserError(
            f"{path} is refused: {error}, unlike any StyleGAN2-ADA snapshot; give a file from a source you trust."
        )
    reason = str(error) if isinstance(error, Damaged) else f"it cannot be decoded: {type(error).__name__}"
    return UserError(f"{path} is damaged or is no StyleGAN2-ADA snapshot ({reason}); restore it or fetch it again.")


class _TensorFlow(Refused):
    """A network of the TensorFlow program."""


def _finder(budget: Budget) -> FindKnown:
    """What the names in one file stand for: never an import, but a look into a table."""
    known = {
        **_KNOWN,
        ("torch.storage", "_load_from_bytes"): Known(lambda data: read_storage(data, budget)),
        ("_codecs", "encode"): Known(lambda text, encoding: _latin1(text, encoding, budget)),
        ("builtins", "set"): Known(lambda items: checked_set(items, budget)),
        ("__builtin__", "set"): Known(lambda items: checked_set(items, budget)),
    }

    def find(module: str, name: str) -> Known:
        stand_in = known.get((module, name))
        if stand_in is not None:
            return stand_in
        if module.startswith("dnnlib.tflib"):
            raise _TensorFlow("it is a TensorFlow network")
        raise _unknown(module, name)

    return find


@dataclass(frozen=True, eq=False, repr=False)
class _Storage:
    values: np.ndarray  # one-dimensional, a view of the file's bytes


def read_storage(data: Any, budget: Budget) -> _Storage:
    """The numbers of one torch storage in the old container.

    The container is four small pickles (magic number, version, byte order, the storage's description), a fifth with
    its key, the count as int64 and the raw numbers.
    """
    if type(data) is not memoryview:
        raise Damaged("it has a storage that is no bytes")
    position = 0
    values: list[Any] = []
    for persistent in (None, None, None, _described_storage, None):
        machine = PickleMachine(data, _find_storage_class, budget, position, persistent)
        values.append(machine.load())
        position = machine.position
    magic, version, system, described, keys = values
    if magic != _STORAGE_MAGIC or version != _STORAGE_PROTOCOL or type(system) is not dict:
        raise Damaged("it has a storage of an unknown kind")
    if system.get("little_endian") is not True or not isinstance(described, _Described) or keys != [described.key]:
        raise Damaged("it has a storage of an unknown kind")
    count = int.from_bytes(data[position : position + 8], "little", signed=True)
    kind = np.dtype(described.dtype)
    if len(data) < position + 8 or count != described.count or count * kind.itemsize != len(data) - position - 8:
        raise Damaged("it has a storage of another length than it says")
    return _Storage(np.frombuffer(data, kind, count, position + 8))


@dataclass(frozen=True)
class _Described:
    dtype: str
    key: str
    count: int


def _described_storage(description: Any) -> _Described:
    """('storage', class, key, location, count, None); the location is ignored."""
    if type(description) is not tuple or len(description) != 6:
        raise Damaged("it has a storage of an unknown kind")
    word, known, key, location, count, view = description
    types = (type(word), type(known), type(key), type(location), type(count))
    if types != (str, Known, str, str, int) or word != "storage" or view is not None or count < 0:
        raise Damaged("it has a storage of an unknown kind")
    return _Described(known.call(), key, count)


def _find_storage_class(module: str, name: str) -> Known:
    if module != "torch" or name not in _STORAGES:
        raise _unknown(module, name)
    return Known(lambda: _STORAGES[name], empty=True)


def _unknown(module: str, name: str) -> Refused:
    shown = ascii(f"{module[:LONGEST_NAME]}.{name[:LONGEST_NAME]}")[1:-1]
    return Refused(f"it names {shown[:LONGEST_NAME]}")


def _persistent_object(meta: Any) -> SavedModule:
    """The module's text (`module_src`) is left behind unread."""
    if type(meta) is not dict:
        raise Damaged("it has a module of an unknown form")
    kind, class_name, state = meta.get("type"), meta.get("class_name"), meta.get("state")
    if type(kind) is not str or kind != "class" or type(class_name) is not str or type(state) is not dict:
        raise Damaged("it has a module of an unknown form")
    return SavedModule(class_name, state)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> np.ndarray:
    """A strided view of a storage; never larger than it, so that no stride of 0 makes much out of little."""
    if type(storage) is not _Storage or len(ignored) > 3:
        raise Damaged("it has a tensor without a storage")
    for counts in (size, stride, (offset,)):
        if type(counts) is not tuple or len(counts) > MOST_DIMENSIONS:
            raise Damaged("it has a tensor of an unknown form")
        if not all(type(count) is int and 0 <= count < 2**48 for count in counts):
            raise Damaged("it has a tensor of an impossible size")
    values = storage.values
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if not 1 <= math.prod(size) <= len(values) or last >= len(values):
        raise Damaged("it has a tensor that reaches beyond its storage")
    steps = [step * values.itemsize for step in stride]
    return np.ndarray(size, values.dtype, values, offset * values.itemsize, steps)


def _parameter(data: Any, *ignored: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray) or len(ignored) > 2:
        raise Damaged("it has a parameter that is no tensor")
    return data


@dataclass(eq=False)
class _Dtype(Adjustable):
    """NumPy's description of a number: only the code is kept, and the byte order checked."""

    code: str

    def set_state(self, state: tuple[Any, ...]) -> None:
        if len(state) < 2 or type(state[1]) is not str or state[1] not in ("<", "|", "="):
            raise Damaged("it has a number in an unknown byte order")


class _Array(Adjustable):
    """An array of NumPy, as StyleGAN3 has them: known to be there, unread."""

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Left aside."""


def _dtype(code: Any, *ignored: Any) -> _Dtype:
    if type(code) is not str or code not in _SCALARS or len(ignored) > 2:
        raise Damaged("it has a number of an unknown type")
    return _Dtype(code)


def _scalar(dtype: Any, data: Any) -> float | int | bool:
    if type(dtype) is not _Dtype or type(data) is not memoryview:
        raise Damaged("it has a number of an unknown type")
    value: float | int | bool = struct.unpack(_SCALARS[dtype.code], data)[0]
    return value


def _latin1(text: Any, encoding: Any, budget: Budget) -> memoryview:
    """How protocol 2 writes bytes."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise Damaged("it has bytes in an unknown encoding")
    budget.spend(copied_bytes=len(text))
    return memoryview(text.encode("latin-1"))


_EMPTY_DICT = Known(dict, empty=True)
_KNOWN: Mapping[tuple[str, str], Known] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Known(_persistent_object),
    ("dnnlib.util", "EasyDict"): _EMPTY_DICT,
    ("dnnlib", "EasyDict"): _EMPTY_DICT,
    ("collections", "OrderedDict"): _EMPTY_DICT,
    ("torch._utils", "_rebuild_tensor_v2"): Known(_tensor),
    ("torch._utils", "_rebuild_parameter"): Known(_parameter),
    ("numpy.core.multiarray", "scalar"): Known(_scalar),
    ("numpy._core.multiarray", "scalar"): Known(_scalar),
    ("numpy", "dtype"): Known(_dtype),
    ("numpy", "ndarray"): Known(lambda: _Array(), empty=True),
    ("numpy.core.multiarray", "_reconstruct"): Known(lambda *ignored: _Array()),
    ("numpy._core.multiarray", "_reconstruct"): Known(lambda *ignored: _Array()),
}


def _walk(module: SavedModule) -> Iterator[tuple[str, np.ndarray]]:
    """(dotted name, tensor) as in a state dict.  Bounded in depth and number: a file may share or nest modules so
    that following them would never end."""
    waiting: list[tuple[str, SavedModule, int]] = [("", module, 0)]
    count = 0
    while waiting:
        prefix, current, depth = waiting.pop()
        count += 1
        if count > MOST_MODULES or depth > DEEPEST_MODULE:
            raise Refused("it nests modules endlessly")
        hidden = current.state.get("_non_persistent_buffers_set", set())
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _named(current, kind):
                if tensor is None or (kind == "_buffers" and type(hidden) is set and name in hidden):
                    continue
                if not isinstance(tensor, np.ndarray):
                    raise Damaged("it has a tensor of an unknown form")
                yield prefix + name, tensor
        for name, inner in reversed(_named(current, "_modules")):
            if isinstance(inner, SavedModule):
                waiting.append((f"{prefix}{name}.", inner, depth + 1))
            elif inner is not None:
                raise Damaged("it has a module of an unknown form")


def _named(module: SavedModule, kind: str) -> list[tuple[str, Any]]:
    members = module.state.get(kind, {})
    if type(members) is not dict:
        raise Damaged("it has a module of an unknown form")
    if not all(type(name) is str and _MODULE_NAME.fullmatch(name) for name in members):
        raise Damaged("it has a module with an impossible name")
    return list(members.items())

"""Files of torch.save (the zip container and the old one) as plain data, without torch.load.

Promised: nothing is imported, called or run that the file names; what it declares is held against its size before
anything is taken; reading ends after a number of steps that follows from the file.  A tensor is known by its shape and
place until it is asked for, so that of a checkpoint of many networks only the chosen one is read.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from runtime.safe_files.pickle_machine import (
    Adjustable,
    Budget,
    Damaged,
    FindKnown,
    Known,
    PickleMachine,
    Refused,
    checked_set,
)
from runtime.safe_files.plain import check_fits_memory, check_regular
from runtime.safe_files.stored_zip import open_stored

MOST_STEPS = 6_000_000  # a checkpoint of 20,000 tensors with its optimizer takes some 2,000,000
MOST_DIMENSIONS = 16
_LARGEST_PICKLE = 256 << 20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NEWER = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")
_DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (*_NEWER, *(str(dtype).removeprefix("torch.") for dtype in _STORAGES.values()))
    if hasattr(torch, name)
}
UNREADABLE: tuple[type[Exception], ...] = (
    Damaged, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError, RuntimeError,
    EOFError, NotImplementedError, OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(eq=False)
class _Storage:
    key: str
    dtype: torch.dtype | None  # None: bytes without a type
    count: int
    start: int = 0  # in numbers of the key's bytes, for views of the oldest files


@dataclass(frozen=True, eq=False)
class SavedTensor:
    """A tensor that has not been read: where its numbers lie."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its numbers."""
        return math.prod(self.size) * self.dtype.itemsize

    @property
    def expanded(self) -> bool:
        """Whether it repeats numbers, so that little in the file is much in memory."""
        return self.nbytes > self.storage.count * (self.storage.dtype or torch.uint8).itemsize


class _Aside(Adjustable):
    """A value that no weight depends on (an array, a number of NumPy, a run's options): known to be there, unread."""

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Left aside."""


_STATED: Any = dict | _Aside  # an OrderedDict with attributes, as of a module's state


@dataclass
class TorchFile:
    """What a file holds: plain data with SavedTensor in the place of tensors."""

    content: Any
    _file: BinaryIO
    _places: Mapping[str, tuple[int, int]]  # key -> first byte, and number of bytes
    _archive: zipfile.ZipFile | None = None
    _read: dict[str, bytearray] = field(default_factory=dict)

    def tensor(self, saved: SavedTensor) -> torch.Tensor:
        """The tensor, on the CPU; tensors of one storage share memory.  Damaged where the file does not have it."""
        storage = saved.storage
        data = self._bytes(storage.key)
        if not math.prod(saved.size):
            return torch.empty(saved.size, dtype=saved.dtype)
        first = storage.start + saved.offset
        last = first + sum((size - 1) * step for size, step in zip(saved.size, saved.stride, strict=True))
        if (last + 1) * saved.dtype.itemsize > len(data):
            raise Damaged("it has a tensor that reaches beyond its numbers")
        return torch.frombuffer(data, dtype=saved.dtype, count=last + 1).as_strided(saved.size, saved.stride, first)

    def _bytes(self, key: str) -> bytearray:
        if key not in self._read:
            if self._archive is not None:
                self._read[key] = bytearray(self._archive.read(self._archive.infolist()[self._places[key][0]]))
            else:
                start, count = self._places[key]
                self._file.seek(start)
                data = bytearray(count)
                if self._file.readinto(data) != count:  # type: ignore[attr-defined]
                    raise Damaged("it breaks off")
                self._read[key] = data
        return self._read[key]


@contextmanager
def open_torch_file(path: Path, remedy: str) -> Iterator[TorchFile]:
    """The file's content, and its tensors for as long as the context lasts.

    UserError where it is no regular file or its entries are compressed; Refused where it names what no checkpoint
    needs; any of UNREADABLE where it is damaged or something else.
    """
    size = check_regular(path, remedy)
    check_fits_memory(path, size, remedy)
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head[:2] == b"PK":
            archive, entries = open_stored(path, remedy)
            with archive:
                yield _from_zip(file, archive, entries)
        else:
            yield _from_old(file, size)


def _from_zip(file: BinaryIO, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> TorchFile:
    if "data.pkl" not in entries:
        raise Damaged("it is an archive without data.pkl")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise Damaged("it was written on a machine of another byte order")
    order = {info.filename: place for place, info in enumerate(archive.infolist())}
    places = {
        name.removeprefix("data/"): (order[info.filename], info.file_size)
        for name, info in entries.items()
        if name.startswith("data/")
    }

    def storage(description: Any) -> _Storage:
        described = _described(description, 5)
        length = places.get(described.key, (0, -1))[1]
        if length < described.count * (described.dtype or torch.uint8).itemsize:
            raise Damaged("it declares a storage that is not in it")
        return described

    if entries["data.pkl"].file_size > _LARGEST_PICKLE:
        raise Refused("its description of the tensors is too long")
    data = memoryview(archive.read(entries["data.pkl"]))
    budget = Budget(MOST_STEPS, len(data))
    content = PickleMachine(data, _finder(budget), budget, 0, storage, _STATED).load()
    return TorchFile(content, file, places, archive)


def _from_old(file: BinaryIO, size: int) -> TorchFile:
    """Five pickles (magic number, version, byte order, the content, the keys), then count and numbers of each key."""
    data = memoryview(file.read())
    budget = Budget(MOST_STEPS, size)
    storages: dict[str, _Storage] = {}

    def storage(description: Any) -> _Storage:
        described = _described(description, 6)
        first = storages.setdefault(described.key, described)
        if first.dtype is not described.dtype:
            raise Damaged("it has a storage of two types")
        if described.count * (described.dtype or torch.uint8).itemsize > size:
            raise Damaged("it declares a storage that is not in it")
        first.count = max(first.count, described.start + described.count)
        return described

    values: list[Any] = []
    position = 0
    for persistent in (None, None, None, storage, None):
        machine = PickleMachine(data, _finder(budget), budget, position, persistent, _STATED)
        values.append(machine.load())
        position = machine.position
        if len(values) == 1 and values[0] != _MAGIC:
            raise Damaged("it is a plain pickle, no file of torch.save")
    if values[1] != _PROTOCOL or type(values[2]) is not dict or values[2].get("little_endian") is not True:
        raise Damaged("it is of an unknown version or byte order")
    if type(values[4]) is not list or set(map(str, values[4])) != set(storages) or len(values[4]) != len(storages):
        raise Damaged("it does not list the numbers that it describes")
    places = {}
    for key in values[4]:
        kind = storages[key].dtype or torch.uint8
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        length = count * kind.itemsize
        if count < storages[key].count or not 0 <= length <= len(data) - position - 8:
            raise Damaged("it breaks off")
        places[key] = (position + 8, length)
        position += 8 + length
    return TorchFile(values[3], io.BytesIO(data), places)


def _described(description: Any, length: int) -> _Storage:
    """('storage', class, key, location, count) and in old files a view, (key, offset, count) or None."""
    if type(description) is not tuple or len(description) != length or description[0] != "storage":
        raise Damaged("it has a storage of an unknown kind")
    known, key, location, count = description[1:5]
    if type(known) is not Known or not known.empty or type(location) is not str or type(count) is not int:
        raise Damaged("it has a storage of an unknown kind")
    dtype = known.call()
    if type(key) is not str or not 0 <= count < 2**48 or not (dtype is _BYTES or isinstance(dtype, torch.dtype)):
        raise Damaged("it has a storage of an unknown kind")
    view = description[5] if length == 6 else None
    start = 0
    if view is not None:
        if type(view) is not tuple or len(view) != 3 or any(type(number) is not int for number in view[1:]):
            raise Damaged("it has a storage of an unknown kind")
        start, count = view[1:]
        if not (0 <= start < 2**48 and 0 <= count < 2**48):
            raise Damaged("it has a storage of an unknown kind")
    return _Storage(key, dtype if isinstance(dtype, torch.dtype) else None, count, start)


_BYTES: Any = object()  # in the place of a type: a storage of plain bytes


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> SavedTensor:
    return _typed(storage, offset, size, stride, storage.dtype if type(storage) is _Storage else None, len(ignored))


def _tensor_of(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, known: Any, *ignored: Any
) -> Any:
    dtype = known.call() if type(known) is Known and known.empty else None
    return _typed(storage, offset, size, stride, dtype, len(ignored))


def _typed(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any, ignored: int) -> SavedTensor:
    if type(storage) is not _Storage or not isinstance(dtype, torch.dtype) or ignored > 3:
        raise Damaged("it has a tensor without a storage")
    for counts in (size, stride, (offset,)):
        if type(counts) is not tuple or len(counts) > MOST_DIMENSIONS:
            raise Damaged("it has a tensor of an unknown form")
        if not all(type(count) is int and 0 <= count < 2**48 for count in counts):
            raise Damaged("it has a tensor of an impossible size")
    if len(size) != len(stride):
        raise Damaged("it has a tensor of an unknown form")
    count = storage.count if storage.dtype is not None else storage.count // dtype.itemsize
    if math.prod(size):
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= count:
            raise Damaged("it has a tensor that reaches beyond its numbers")
    return SavedTensor(storage, dtype, offset, size, stride)


def _parameter(data: Any, *ignored: Any) -> Any:
    if type(data) is not SavedTensor or len(ignored) > 3:
        raise Damaged("it has a parameter that is no tensor")
    return data


def _of_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor or parameter to which attributes were added, which are left aside."""
    if (
        type(rebuild) is not Known
        or rebuild.call not in (_tensor, _tensor_of, _parameter)
        or type(arguments) is not tuple
    ):
        raise Damaged("it has a tensor of an unknown form")
    return rebuild.call(*arguments)


def _dictionary(budget: Budget, *items: Any) -> dict[Any, Any]:
    """Empty, as it is filled later; or from pairs, as Python 2 wrote it."""
    if not items:
        return {}
    if len(items) == 1 and type(items[0]) is dict:
        return items[0]
    budget.spend(len(items[0]) if type(items[0]) is list else 0)
    if len(items) != 1 or type(items[0]) is not list or not all(type(item) in (list, tuple) for item in items[0]):
        raise Damaged("it has a dictionary of an unknown form")
    pairs = [tuple(item) for item in items[0]]
    if not all(len(pair) == 2 and type(pair[0]) is str for pair in pairs):
        raise Damaged("it has a dictionary of an unknown form")
    return dict(pairs)


def _size(*arguments: Any) -> Any:
    return arguments[0] if arguments else ()


def _itself(value: Any) -> Any:
    return value


def _aside(*ignored: Any) -> _Aside:
    return _Aside()


_KNOWN: Mapping[tuple[str, str], Known] = {
    ("torch._utils", "_rebuild_tensor"): Known(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Known(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Known(_tensor_of),
    ("torch._utils", "_rebuild_parameter"): Known(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Known(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Known(_of_type),
    ("torch", "Tensor"): Known(_aside, empty=True),
    ("torch.nn.parameter", "Parameter"): Known(_aside, empty=True),
    ("torch.storage", "UntypedStorage"): Known(lambda: _BYTES, empty=True),
    ("torch", "Size"): Known(_size),
    ("torch", "device"): Known(_aside),
    ("torch.serialization", "_get_layout"): Known(_aside),
    ("argparse", "Namespace"): Known(_aside, empty=True),
    ("numpy", "ndarray"): Known(_aside, empty=True),
    ("numpy", "dtype"): Known(_aside),
    ("_codecs", "encode"): Known(_aside),
    **{
        (f"numpy.{core}.multiarray", name): Known(_aside)
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
    **{
        ("torch", name): Known(partial(_itself, dtype), empty=True)
        for name, dtype in (*_STORAGES.items(), *_DTYPES.items())
    },
}  # fmt: skip


def _finder(budget: Budget) -> FindKnown:
    """What the names in one file stand for: never an import, but a look into a table."""
    sets = Known(lambda items: checked_set(items, budget))
    dictionaries = Known(partial(_dictionary, budget))
    known = {
        **_KNOWN,
        ("builtins", "set"): sets,
        ("__builtin__", "set"): sets,
        ("collections", "OrderedDict"): dictionaries,
        ("collections", "Counter"): dictionaries,
    }

    def find(module: str, name: str) -> Known:
        stand_in = known.get((module, name))
        if stand_in is None:
            raise Refused(f"it names {ascii(f'{module[:100]}.{name[:100]}')[1:-1][:200]}")
        return stand_in

    return find

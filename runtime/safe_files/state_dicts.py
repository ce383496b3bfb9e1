"""Tensors out of foreign checkpoint files, without running anything in them, checked name by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from runtime.errors import UserError
from runtime.safe_files.pickle_machine import Refused
from runtime.safe_files.plain import check_fits_memory, check_regular
from runtime.safe_files.torch_file import UNREADABLE, SavedTensor, TorchFile, open_torch_file

LISTED = 10  # so many wrong names are listed
REMEDY = "give the checkpoint's own file, e.g. the G_ema.pth in a folder of weights"
# Parts that DataParallel, torch.compile, AveragedModel and sharding put into names, in any order and place.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
COUNTER = "n_averaged"  # beside the tensors of torch's AveragedModel
_MOST_SHARED = 4  # tensors that are stored once and listed under several names make up so many times the file at most
_LARGEST_HEADER = 100 << 20


@dataclass
class Checkpoint:
    """An opened file.  `content`: a state dict, or what a training wrote: dictionaries of them and of other data.

    Leaves that are tensors are SavedTensor or torch.Tensor; `is_tensor` tells.
    """

    path: Path
    content: Any
    size: int
    _file: TorchFile | None = None

    def load(self, names: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors behind the leaves; UserError where the file does not have them."""
        for name, leaf in names.items():
            if isinstance(leaf, SavedTensor) and leaf.expanded:
                raise UserError(
                    f"{self.path} is refused: {_shown(name)} claims {leaf.nbytes} bytes, which are not in the file; "
                    f"get it again."
                )
        total = sum(leaf.nbytes for leaf in names.values())
        if total > _MOST_SHARED * self.size:
            raise UserError(f"{self.path} is refused: its tensors claim {total} bytes, and it has {self.size}.")
        tensors = {}
        for name, leaf in names.items():
            try:
                tensors[name] = self._file.tensor(leaf) if self._file is not None else leaf
            except UNREADABLE as error:
                raise _damaged(self.path, error) from error
        return tensors


def is_tensor(leaf: Any) -> bool:
    """Whether a value of a checkpoint's content is a tensor."""
    return isinstance(leaf, torch.Tensor | SavedTensor)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """A .safetensors file or one of torch.save, for as long as the context lasts.

    UserError naming the file where it is missing, no regular file, damaged, larger than the free memory, or holds
    anything but tensors and plain data.
    """
    path = Path(path)
    size = check_regular(path, REMEDY)
    if path.suffix == ".safetensors":
        yield Checkpoint(path, _safetensors(path, size), size)
        return
    opened = open_torch_file(path, REMEDY)
    try:
        file = opened.__enter__()
    except Refused as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors, which could run code ({error}); "
            f"save the generator's state dict alone and give that file."
        ) from error
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    try:
        yield Checkpoint(path, file.content, size, file)
    finally:
        opened.__exit__(None, None, None)


def read_tensors(path: Path, entries: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """name -> tensor on the CPU, wrappers' parts of the names removed.

    A whole training checkpoint is a dictionary of state dicts: the first of `entries` that is in it is taken.  A file
    that is itself a state dict is taken as it is.  UserError as for `open_checkpoint`, and where it is neither.
    """
    with open_checkpoint(path) as checkpoint:
        content = checkpoint.content
        for entry in entries:
            if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
                content = content[entry]
                break
        if not isinstance(content, Mapping) or not content:
            raise UserError(f"{path} holds no named tensors; give the checkpoint of the generator.")
        leaves = {str(name): value for name, value in content.items() if is_tensor(value)}
        if len(leaves) != len(content):
            inner = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
            hint = f"it has {', '.join(inner[:LISTED])}" if inner else "it holds other things than tensors"
            wanted = " or ".join(entries) if entries else "a bare state dict"
            raise UserError(
                f"{path} is no checkpoint of this kind: {wanted} was expected, and {hint}; give another file."
            )
        return checkpoint.load(plain_names(leaves, path))


def plain_names(leaves: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The same without what wrappers put into the names and without their counter.

    UserError where two names become one, since either might be meant.
    """
    renamed: dict[str, Any] = {}
    for name, leaf in leaves.items():
        parts = name.split(".")
        kept = [part for part in parts if part not in WRAPPERS]
        if kept == [COUNTER] or not kept:
            continue
        plain = ".".join(kept)
        if plain in renamed:
            raise UserError(f"{path} holds {plain} twice, with and without a wrapper's prefix; save one network only.")
        renamed[plain] = leaf
    return renamed


def _safetensors(path: Path, size: int) -> dict[str, torch.Tensor]:
    check_fits_memory(path, size, REMEDY)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > min(size - 8, _LARGEST_HEADER):
        raise UserError(f"{path} is damaged or is no .safetensors file (its header claims {header} bytes); restore it.")
    try:
        return load_file(path)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise _damaged(path, error) from error
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> UserError:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
    if "plain pickle" in text:
        return UserError(
            f"{path} is a pickle of modules or other values, as StyleGAN2-ADA writes, and no file of torch.save; give "
            f"--arch stylegan2-ada for such a snapshot, or save the generator's state dict with torch.save."
        )
    return UserError(f"{path} is damaged or is no checkpoint ({text}); restore it.")


def check_tensors(
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, Sequence[int]],
    source: Path,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """UserError listing the first ten missing, surplus or misshapen tensors; `ignored(name)`: may be there unused."""
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [
        f"{name} has shape {list(tensors[name].shape)} in place of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    wrong += [f"{_shown(name)} is surplus" for name in tensors if name not in expected and not ignored(name)]
    wrong += [
        f"{name} holds numbers that are not finite"
        for name in expected
        if name in tensors and not bool(torch.isfinite(tensors[name].double()).all())
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise UserError(f"{source} does not fit this kind of teacher: {'; '.join(wrong[:LISTED])}{more}.")


def _shown(name: str) -> str:
    return ascii(name[:100])[1:-1]

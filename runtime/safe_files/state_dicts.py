"""Tensors out of foreign checkpoint files, without running anything in them, checked name by name."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from runtime.errors import UserError

LISTED = 10  # so many wrong names are listed
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name


def read_tensors(path: Path, entries: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """name -> tensor on the CPU, wrappers' prefixes removed.

    A whole training checkpoint is a dictionary of state dicts: the first of `entries` that is in it is taken.  A file
    that is itself a state dict is taken as it is.  UserError naming the file where it is missing, damaged, or holds
    anything that torch's restricted loading refuses.
    """
    found: Any = _load(Path(path))
    for entry in entries:
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            found = found[entry]
            break
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} holds no named tensors; give the checkpoint of the generator.")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if len(tensors) != len(found):
        inner = [str(name) for name, value in found.items() if isinstance(value, Mapping)]
        hint = f"it has {', '.join(inner[:LISTED])}" if inner else "it holds other things than tensors"
        wanted = " or ".join(entries) if entries else "a bare state dict"
        raise UserError(f"{path} is no checkpoint of this kind: {wanted} was expected, and {hint}; give another file.")
    _refuse_expanded(tensors, path)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; give the checkpoint's path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle protocol, before it refuses the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors, which could run code ({_reason(error)}); "
            f"save the generator's state dict alone and give that file."
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
            IndexError, AssertionError, MemoryError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or is no checkpoint ({_reason(error)}); restore it.") from error


def _reason(error: BaseException) -> str:
    """The first telling line of torch's long explanations."""
    text = str(error)
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.strip()[:120].rstrip(".")
    return (text.splitlines() or [type(error).__name__])[0][:120].rstrip(".")


def _refuse_expanded(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """A small file may claim a huge tensor by repeating one number; no checkpoint does."""
    for name, value in tensors.items():
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise UserError(
                f"{path} is refused: {name} claims {value.numel()} numbers, which are not in the file; get it again."
            )


def check_tensors(
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, Sequence[int]],
    source: Path,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """UserError listing the first ten missing, surplus or misshapen tensors; `ignored(name)`: may be there unused."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [
        f"{name} has shape {list(found[name].shape)} in place of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    wrong += [f"{name} is surplus" for name in found if name not in expected and not ignored(name)]
    wrong += [
        f"{name} holds numbers that are not finite"
        for name in expected
        if name in found and not bool(torch.isfinite(found[name].double()).all())
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise UserError(f"{source} does not fit this kind of teacher: {'; '.join(wrong[:LISTED])}{more}.")

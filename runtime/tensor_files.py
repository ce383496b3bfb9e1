"""Weights on disk: one safetensors file, written whole, and read only where it is what its card says.

The library writes a private file (mode 0600) and tells of a full disk in an error of its own; here the mode follows
the umask, and a failing disk is an OSError as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from runtime.atomic import commit_file, refuse_gone, temporary_name
from runtime.os_errors import named


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Commit the tensors, whatever device and order they have in memory; OSError where the disk fails."""
    refuse_gone(path)
    temporary = temporary_name(path)
    try:
        with named(path):
            save_tensors(temporary, tensors)
        commit_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """`write_tensors` into a folder that is committed as a whole: not synced, and no temporary name."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with open(path, "xb") as stream:  # as open makes it, so the umask
        mode = os.fstat(stream.fileno()).st_mode & 0o777
    with named(path):  # the library has an error of its own for a disk that refuses
        save_file(plain, path)
    path.chmod(mode)


def tensor_names(path: Path) -> list[str]:
    """The names in a file; [] where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors on the CPU; OSError where the file cannot be read, ValueError where it is no whole safetensors."""
    if not path.is_file():
        os.stat(path)  # says why
        raise OSError(f"{path} is no regular file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error).splitlines()[0]) from error

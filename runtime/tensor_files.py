"""Weights on disk: one safetensors file, written whole, and read only where it is what its card says.

The library writes a private file (mode 0600) and tells of a full disk in an error of its own; here the mode follows
the umask, and a failing disk is an OSError as everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runtime.atomic import commit_file, temporary_name

_SYSTEM_ERROR = re.compile(r"code: (\d+)")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Commit the tensors, whatever device and order they have in memory; OSError where the disk fails."""
    temporary = temporary_name(path)
    try:
        save_tensors(temporary, tensors)
        commit_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """`write_tensors` into a folder that is committed as a whole: not synced, and no temporary name."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with open(path, "xb") as stream:  # as open makes it, so the umask
        mode = os.fstat(stream.fileno()).st_mode & 0o777
    try:
        save_file(plain, path)
    except SafetensorError as error:
        code = _SYSTEM_ERROR.search(str(error))
        if code is None:
            raise
        raise OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path)) from error
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors on the CPU; OSError where the file cannot be read, ValueError where it is no whole safetensors."""
    if not path.is_file():
        os.stat(path)  # says why
        raise OSError(f"{path} is no regular file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error).splitlines()[0]) from error

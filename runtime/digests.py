"""Names derived from contents: canonical JSON, SHA-256 of files and of tensors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 8 << 20  # so much that several threads seldom wait for the interpreter lock


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text.  NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces of 8 MiB (not mapped: a failing disk shall be an error, not a signal).

    OSError where it cannot be read or is no regular file, which might be endless.
    """
    total = hashlib.sha256()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    buffer = bytearray(_CHUNK_BYTES)
    with open(path, "rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            total.update(memoryview(buffer)[:count])
    return total.hexdigest()


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        total.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()

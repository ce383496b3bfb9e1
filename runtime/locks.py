"""One writer at a time: a lock on a file, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError


@contextmanager
def exclusive_lock(path: Path, refusal: str) -> Iterator[None]:
    """Create the lock file `path` and hold it; raise UserError(refusal) where another process holds it.

    On a file system (or an operating system) without locks nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(refusal) from error
        yield

"""What the operating system refuses, as one sentence: which path, what happened, and what to do.

Disks fill, mounts turn read-only, folders vanish under a run.  None of that is a defect of the program, and nothing
committed is lost by it, so that a command ends with a sentence and exit code 2, wherever in it the error came up.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AGAIN = "and run the same command again to continue"
_REMEDIES = {
    errno.ENOSPC: f"nothing committed is lost, make room {AGAIN}",
    errno.EDQUOT: f"nothing committed is lost, make room within the quota {AGAIN}",
    errno.EFBIG: f"nothing committed is lost, raise the limit of file sizes (`ulimit -f`) {AGAIN}",
    errno.EIO: f"check the disk {AGAIN}",
    errno.EROFS: "give a place that can be written (--out or --workspace)",
    errno.EACCES: "this user has no right to it; change the rights, or give another place (--out or --workspace)",
    errno.EPERM: "this user has no right to it; change the rights, or give another place (--out or --workspace)",
    errno.ENOENT: f"it is missing, or was removed while the command worked; restore it {AGAIN}",
    errno.ESTALE: f"the network file system lost it; mount it again {AGAIN}",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away, or give another place",
    errno.EISDIR: "a folder stands where a file is needed; give the name of a file",
    errno.EEXIST: "something with this name is in the way; move it away, or give another place",
    errno.ENOTEMPTY: f"another process writes into it; wait for it {AGAIN}",
    errno.ENAMETOOLONG: "the name is too long for this file system; give a shorter one",
    errno.ELOOP: "its links lead in a circle; mend them",
    errno.EINVAL: "this file system cannot do it; give another place (--out or --workspace)",
    errno.ENOTSUP: "this file system cannot do it; give another place (--out or --workspace)",
    errno.EMFILE: f"raise the limit of open files (`ulimit -n`) {AGAIN}",
    errno.ENFILE: f"the machine has no file handles left, close programs {AGAIN}",
    errno.ENOMEM: f"the machine has no memory left, close programs {AGAIN}",
    errno.EADDRINUSE: "another program listens there; give another --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; give another --host",
    errno.ENXIO: "it is a pipe or socket without a reader; give the name of a file",
}
_OF_HDF5 = re.compile(r"\berrno = (\d+)")  # while it closes a file that did not fit
_NUMBER_IN_TEXT = re.compile(r"\b(?:os error|errno\s*=|code:)\s*(\d+)")  # safetensors; HDF5


def errno_of(error: BaseException) -> int | None:
    """The system's error number, also where a library has wrapped it in a text of its own (safetensors, HDF5)."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, OSError | RuntimeError) and type(error).__name__ != "SafetensorError":
        return None
    match = (_OF_HDF5 if type(error) is RuntimeError else _NUMBER_IN_TEXT).search(str(error))
    return int(match[1]) if match else None


def sentence_of(error: BaseException, place: str | None = None) -> str | None:
    """The sentence for the user; None where the error is none of the operating system's refusals.

    `place`: what refused, where the error does not name it.
    """
    number = errno_of(error)
    if number not in _REMEDIES:
        return None
    name = getattr(error, "filename", None)
    named = name.decode(errors="replace") if isinstance(name, bytes) else name
    if isinstance(named, int) or not named:
        named = place or "a file of this command"
    return refusal(number, named)


def refusal(number: int, place: str) -> str:
    """The sentence for a known number."""
    return f"{place}: {os.strerror(number)}; {_REMEDIES[number]}."


@contextmanager
def named(path: Path) -> Iterator[None]:
    """The system's errors inside the block bear `path`, also where a write or a library left the name out."""
    try:
        yield
    except Exception as error:
        number = errno_of(error)
        name = getattr(error, "filename", None)
        if number is None or (name and not str(name).endswith(".tmp")):  # temporary names say nothing to a user
            raise
        raise OSError(number, os.strerror(number), str(path)) from error

"""Claims by which several processes, also on several machines with one file system, share cells of work.

A claim is a file `claim.G` (G = 0, 1, ...), created with O_EXCL, that names process and machine; its time of change is
the heartbeat.  The highest G is the owner.  A stale claim is never deleted by others: whoever makes `claim.G+1` takes
over, and only one can.  Stale is: on this machine, the process is gone (or its number belongs to a younger process); on
another machine, no heartbeat for `STALE_AFTER_SECONDS`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from runtime.errors import UserError
from runtime.safe_files import MissingFile, read_json_object

STALE_AFTER_SECONDS = 300.0
_LARGEST_BYTES = 4096
_HEARTBEAT_SECONDS = 20.0
_UNWRITTEN_GRACE_SECONDS = 30.0


class Claim:
    """A held claim; as a context manager it beats while the block runs and lets go at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for path in claims_in(self.path.parent):  # older ones of processes that are gone first, so that none counts
            if _generation(path) <= _generation(self.path):
                path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return


def try_claim(folder: Path) -> Claim | None:
    """Claim `folder` (created where missing); None where a live process holds it.

    After a success ask once more whether the work is done: the former owner may have finished in between.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = claims_in(folder)
    if before and not is_stale(before[-1]):
        return None
    path = folder / f"claim.{_generation(before[-1]) + 1 if before else 0}"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # less the umask
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as stream:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": process_start(os.getpid())}
        stream.write(json.dumps(owner))
    return Claim(path)


def claims_in(folder: Path) -> list[Path]:
    """The claims on a folder, the owner's last."""
    return sorted((path for path in folder.glob("claim.*") if path.suffix[1:].isdigit()), key=_generation)


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def is_stale(path: Path) -> bool:
    """Whether the owner of a claim is gone.  A claim that was let go meanwhile counts as live: look again later."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = read_json_object(path, limit_bytes=_LARGEST_BYTES)
        pid, host, started = int(owner["pid"]), str(owner["host"]), owner["started"]
    except (FileNotFoundError, MissingFile):
        return False
    except (UserError, ValueError, KeyError, TypeError):
        return age > _UNWRITTEN_GRACE_SECONDS  # created but never filled: its process died between two system calls
    if host != socket.gethostname():
        return age > STALE_AFTER_SECONDS
    return not _is_alive(pid) or (started is not None and process_start(pid) != started)


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (Linux), or None; tells a reused process number apart.

    A process that has died but was not yet collected by its parent has none.
    """
    try:
        entries = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if entries[0] in "ZX" else int(entries[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

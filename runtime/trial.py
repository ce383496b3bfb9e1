"""Running a foreign program for the first time, in a process of its own with limits of time and memory.

Promised on Linux: a program that does not end, takes more than the free memory or kills its process is a UserError.
Elsewhere the work is done in this process, without limits.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from runtime.errors import UserError
from runtime.free_space import free_memory_bytes

CPU_SECONDS = 30  # of computing, whatever else the machine does
_WALL_SECONDS = 300.0  # for a program that waits


def run_limited(work: Callable[[], Sequence[torch.Tensor]], name: str) -> list[torch.Tensor]:
    """What `work` returns; `name` (of the file) begins the sentence of a UserError where it does not end well.

    A UserError that `work` raises is raised here.
    """
    if sys.platform != "linux":
        return list(work())
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, send, _memory_limit()), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child starts none of this process
        process.start()
    send.close()
    try:
        message = receive.recv_bytes() if receive.poll(_WALL_SECONDS) else b""
    except EOFError:
        message = b""
    finally:
        receive.close()
        if process.is_alive():
            process.join(0 if not message else 10)
        if process.is_alive():
            process.kill()
        process.join()
    if message[:1] == b"E":
        raise UserError(message[1:].decode())
    if message[:1] == b"M" or (not message and process.exitcode not in (-signal.SIGXCPU, -signal.SIGKILL)):
        raise UserError(f"{name} takes more memory than is free, or fails in its first run; export a smaller program.")
    if not message:
        raise UserError(
            f"{name} does not finish its first images within {CPU_SECONDS} seconds of computing; export it as a plain "
            f"graph, or a smaller one."
        )
    arrays = np.load(io.BytesIO(message[1:]), allow_pickle=False)
    return [torch.from_numpy(arrays[key]) for key in arrays.files]


def _child(work: Callable[[], Sequence[torch.Tensor]], pipe: Connection, memory: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the signal too, and ends this process
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    torch.set_num_threads(1)
    try:
        buffer = io.BytesIO()
        np.savez(buffer, *[tensor.detach().cpu().numpy() for tensor in work()])
        message = b"A" + buffer.getvalue()
    except UserError as error:
        message = b"E" + str(error).encode()
    except MemoryError:
        message = b"M"
    pipe.send_bytes(message)
    pipe.close()


def _memory_limit() -> int | None:
    """Bytes of addresses: what this process has, and the memory that is free."""
    free = free_memory_bytes()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return None if free is None else pages * resource.getpagesize() + free

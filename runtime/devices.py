"""Device, threads and memory of a process that computes: cores divided by processes, freed memory kept for reuse."""

from __future__ import annotations

import ctypes
import os
import platform
import re

import torch

from runtime.errors import UserError


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(processes: int) -> int:
    """Threads of each of `processes` processes.  OMP_NUM_THREADS, where set, is an upper bound."""
    threads = max(1, usable_cores() // max(1, processes))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(threads, int(limit)) if limit.isdigit() and int(limit) > 0 else threads


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for its parameters (glibc's malloc.h)
_KEPT_BYTES, _MAPPED_BYTES = 1 << 30, 1 << 28


def keep_freed_memory() -> bool:
    """Let glibc keep what a network's pass frees for the next pass; returns whether it does.

    Otherwise each pass gives its activations back to the system, which hands the next one new pages, zeroed: a fifth of
    the processor time of a small network.  At most 1 GiB is kept, and arrays of 256 MiB and more are still given back.
    The user's own MALLOC_... variables go before.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))


def set_threads(processes: int = 1) -> int:
    """Give this process its share of the cores, and keep its memory for reuse; returns the number of threads."""
    keep_freed_memory()
    threads = threads_for(processes)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def pick_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one; `cpu`, `cuda` and `cuda:N` are taken at their word or refused."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    here = f"here are auto, cpu{_gpu_names(gpus)}"
    if not re.fullmatch(r"cuda(:\d{1,4})?", name):
        raise UserError(f"--device {name!r} is no device of this program; {here}.")
    if not gpus:
        raise UserError(f"--device {name} asks for a GPU, and torch finds none on this machine; {here}.")
    device = torch.device(name)
    if device.index is not None and device.index >= gpus:
        raise UserError(f"--device {name}: this machine has {gpus} GPU{'s' if gpus > 1 else ''}; {here}.")
    return device


def _gpu_names(gpus: int) -> str:
    """What stands behind "auto, cpu" in a list of devices."""
    if gpus == 0:
        return " (no GPU)"
    return ", cuda and cuda:0" + (f" to cuda:{gpus - 1}" if gpus > 1 else "")


def visible_gpus(device: str) -> list[str]:
    """Names (as in CUDA_VISIBLE_DEVICES) of the GPUs among which `device` leaves the choice: none for cpu or cuda:N."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]

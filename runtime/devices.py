"""Device and threads: cores divided by processes, everywhere."""

from __future__ import annotations

import os

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


def set_threads(processes: int = 1) -> int:
    """Give this process its share of the cores; returns the number of threads."""
    threads = threads_for(processes)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def pick_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one; any other name is taken at its word or refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name} asks for a GPU, and torch finds none on this machine; use --device cpu.")
    return device


def visible_gpus(device: str) -> list[str]:
    """Names (as in CUDA_VISIBLE_DEVICES) of the GPUs among which `device` leaves the choice: none for cpu or cuda:N."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]

"""The local engine: work items over the processes, and the GPUs, of this machine.

Worker processes are spawned (no inherited HDF5 or thread state), get cores / workers threads each, and die with
their parent.  Where there are several GPUs, each process sees one of them.  A worker that dies is reported as an error
that says so; nothing that was committed is lost.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.atomic import adopt, guards
from runtime.devices import set_threads, threads_for, visible_gpus
from runtime.errors import UserError

_PR_SET_PDEATHSIG = 1
_SIGNAL_SECONDS = 0.2
_engines: weakref.WeakSet[LocalEngine] = weakref.WeakSet()


def end_workers() -> None:
    """End all worker processes now, whatever they are doing; for a command that was interrupted.

    Work is committed in whole units, and a unit that was cut short is computed again.
    """
    for engine in list(_engines):
        engine.kill()


def _start_worker(workers: int, parent: int, gpus: Any, folders: dict[Path, int]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    os.environ["OMP_NUM_THREADS"] = str(threads_for(workers))  # an engine inside this worker keeps to the same share
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # before this process first asks for a GPU
    set_threads(workers)
    adopt(folders)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A terminal sends Ctrl-C to every process; workers born in the block leave it to their parent, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LocalEngine:
    """Runs items in this process (workers = 1) or in `workers` spawned processes.

    The processes start with the first `map` and serve later ones too, until `close` or until the engine is let go.
    `gpus` are dealt out to the processes in turn (default: those that `device` leaves the choice among).
    """

    def __init__(self, workers: int = 1, device: str = "cpu", gpus: Sequence[str] | None = None) -> None:
        if workers < 1:
            raise UserError(f"--workers {workers} is too few; give 1 or more.")
        self.workers = workers
        self._gpus = visible_gpus(device) if gpus is None else list(gpus)
        self._executor: ProcessPoolExecutor | None = None
        _engines.add(self)

    def close(self) -> None:
        """End the worker processes; a later `map` starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def __del__(self) -> None:
        if getattr(self, "_executor", None) is not None:
            with suppress(OSError):  # at the interpreter's end the executor's own exit has closed its queues
                self.close()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield results as they finish.  At most 2 x workers items are taken from `items` ahead of time."""
        if self.workers == 1:
            set_threads(1)
            yield from map(function, items)
            return
        pending: set[Future[Any]] = set()
        executor = self._started()
        try:
            for item in items:
                with _interrupts_held_back():  # a first item starts the processes, which inherit this
                    pending.add(executor.submit(function, item))
                if len(pending) >= 2 * self.workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except KeyboardInterrupt:
            self.kill()
            pending.clear()
            raise
        except BrokenProcessPool as error:
            time.sleep(_SIGNAL_SECONDS)  # what ended the worker may have been sent to this process too
            self.close()
            raise UserError(
                "a worker process died (out of memory, or killed); run the same command again to continue."
            ) from error
        finally:
            for future in pending:
                future.cancel()
            wait(pending)

    def kill(self) -> None:
        """End the workers now, whatever they are doing."""
        if self._executor is not None:
            processes = list((self._executor._processes or {}).values())
            for process in processes:
                process.kill()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            gpus = None
            if len(self._gpus) > 1:
                gpus = context.SimpleQueue()
                for number in range(self.workers):
                    gpus.put(self._gpus[number % len(self._gpus)])
            self._executor = ProcessPoolExecutor(
                self.workers, context, initializer=_start_worker, initargs=(self.workers, os.getpid(), gpus, guards())
            )
        return self._executor

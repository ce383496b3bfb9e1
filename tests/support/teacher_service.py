"""Teacher services for the tests: one in a thread of this process, and the command in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from interfaces import Teacher
from runtime.seeds import label_bits
from teacher_sampler.remote.connections import ConnectionLimits
from teacher_sampler.remote.service import ServiceSettings, create_app, listen, make_server
from teacher_sampler.remote.transport import Patience

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "0123456789abcdef" * 4
QUICK = Patience(meet_s=0.4, connect_s=1.0, answer_s=0.5, body_s=0.5, give_up_s=0.4, first_pause_s=0.02)
STEADY = replace(QUICK, give_up_s=30.0, answer_s=10.0, body_s=10.0, longest_pause_s=0.1)


@contextmanager
def running_service(
    teacher: Teacher, digest: str = DIGEST, port: int = 0, limits: ConnectionLimits | None = None, **settings: Any
) -> Iterator[str]:
    """The address of a real server in a thread."""
    listening = listen("127.0.0.1", port)
    server = make_server(create_app(teacher, digest, ServiceSettings(**settings)), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


class ServingProcess:
    """`cli.py serve-teacher` in a process; `address` and `digest` are what it printed."""

    def __init__(self, teacher: Path, *words: str, port: int = 0, **environment: str) -> None:
        command = [sys.executable, "cli.py", "serve-teacher", "--teacher", str(teacher), "--json", "--port", str(port)]
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        printed = json.loads(line)
        self.address, self.port, self.digest = printed["address"], printed["port"], printed["digest"]

    def freeze(self) -> None:
        """Requests are taken by the operating system, and nobody reads them."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """(exit code, the rest of stdout, stderr) of a service that is told to end."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def keys_of(labels: np.ndarray, first: int = 0) -> np.ndarray:
    return np.stack([label_bits(labels), np.arange(first, first + len(labels))], axis=1)


@contextmanager
def no_endless_wait() -> Iterator[None]:
    """What waits for a silent peer ends; the time-outs here are below a second, the slack is for load."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 100

"""Connections that ask nothing, too slowly, or without end; and small requests beside large ones.  Real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import torch
import urllib3

from teacher_sampler.remote.connections import ConnectionLimits
from teacher_sampler.remote.turns import Turns
from tests.support.teacher_service import no_endless_wait, running_service
from tests.support.tiny_sampling import CountingTeacher

SHORT = ConnectionLimits(headers_s=0.2, keep_alive_s=0.2, stalled_s=0.2, linger_s=0.2, linger_bytes=1 << 16)
GOOD = {"seed": 0, "labels": [0, 1], "candidates": [0, 5]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_service(CountingTeacher(8, 1), limits=SHORT) as found:
        yield found


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def everything(raw: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    with suppress(ConnectionError):
        while piece := raw.recv(65536):
            found += piece
    return found


def ask(address: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    place = address + ("/health" if body is None else "/images")
    answer = urllib3.request(
        "GET" if body is None else "POST", place, body=data, headers=headers, retries=False, timeout=30
    )
    return answer.status, answer.data


@pytest.mark.parametrize("begun", [b"", b"GET", b"POST /images HTTP/1.1\r\nHost: x\r\nContent-Le"])
def test_connections_without_a_request_are_closed(address: str, begun: bytes) -> None:
    with no_endless_wait(), connect(address) as raw:
        raw.sendall(begun)
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"no complete request" in answer


def test_headers_that_trickle_in_are_closed(address: str) -> None:
    with no_endless_wait(), connect(address) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\n")
        with suppress(OSError):
            for number in range(1000):
                raw.sendall(f"X-{number}: 1\r\n".encode())
                time.sleep(0.02)
            raise AssertionError("header lines without end are read")


def test_a_kept_connection_waits_for_the_next_request_and_then_is_closed(address: str) -> None:
    with no_endless_wait(), connect(address) as raw:
        for _ in range(3):
            healthy(raw)
        assert everything(raw) == b""
    with no_endless_wait(), connect(address) as raw:
        healthy(raw)
        raw.sendall(b"GET /hea")
        assert everything(raw).startswith(b"HTTP/1.1 408 ")


def healthy(raw: socket.socket) -> None:
    raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    found = b""
    while not found.endswith(b"}"):
        piece = raw.recv(4096)
        assert piece
        found += piece
    assert found.startswith(b"HTTP/1.1 200 ")


def test_more_than_a_thousand_silent_connections_keep_nobody_out() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        if hard != resource.RLIM_INFINITY and hard < 4096:
            pytest.skip("this process may not open 2,040 sockets")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    with running_service(CountingTeacher(8, 1)) as address, ExitStack() as held:
        silent = [held.enter_context(connect(address)) for _ in range(1020)]
        for raw in silent[::2]:
            with suppress(OSError):
                raw.sendall(b"GET")
        for _ in range(5):
            assert ask(address)[0] == 200
            assert ask(address, GOOD)[0] == 200
        for raw in silent:
            raw.setblocking(False)
        time.sleep(0.1)
        assert sum(_is_open(raw) for raw in silent) <= ConnectionLimits.per_address


def _is_open(raw: socket.socket) -> bool:
    try:
        return raw.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


class Held(CountingTeacher):
    """Computes requests of more than `small` images only when told to; `begun` counts all."""

    def __init__(self, small: int = 0) -> None:
        super().__init__(8, 1)
        self.small, self.go_on, self.begun = small, threading.Event(), 0

    def generate(self, latents: Any, labels: np.ndarray, keys: np.ndarray, seed: int = 0) -> torch.Tensor:
        self.begun += 1
        if len(labels) > self.small:
            assert self.go_on.wait(60)
        return super().generate(latents, labels, keys, seed)


def test_beyond_the_limit_of_an_address_one_is_told_to_come_again() -> None:
    teacher = Held()
    limits = ConnectionLimits(per_address=3)
    with running_service(teacher, limits=limits) as address:
        clients = [threading.Thread(target=ask_until_served, args=(address, GOOD)) for _ in range(3)]
        try:
            for client in clients:
                client.start()
            answers: list[Any] = []

            def refused() -> bool:
                with suppress(urllib3.exceptions.HTTPError):  # this one made room for a client before it had asked
                    answers.append(urllib3.request("GET", address + "/health", retries=False, timeout=30))
                    return answers[-1].status == 503
                return False

            wait_until(refused)  # all three are in, and none of them is idle
            answer = answers[-1]
            assert answer.headers["Retry-After"] == "1"
            assert json.loads(answer.data)["error"].endswith(".")
        finally:
            teacher.go_on.set()
            for client in clients:
                client.join(30)
        assert ask(address)[0] == 200


def ask_until_served(address: str, body: Any) -> None:
    """A client that was pushed out before it had asked, or came too late, asks again."""
    while True:
        with suppress(urllib3.exceptions.HTTPError):
            if ask(address, body)[0] == 200:
                return
        time.sleep(0.02)


def wait_until(true: Any) -> None:
    end = time.monotonic() + 100
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("framing", ["Content-Length: 900", "Transfer-Encoding: chunked"])
def test_after_a_refusal_the_body_is_not_read_without_end(framing: str) -> None:
    with running_service(CountingTeacher(8, 1), limits=SHORT, token="s3cret") as address:
        with no_endless_wait(), connect(address) as raw:
            raw.sendall(f"POST /images HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            answer = raw.recv(4096)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" in answer.lower()
            sent = 0
            with suppress(OSError):
                while sent < 1 << 28:
                    raw.sendall(b"1000\r\n" + b"[" * 4096 + b"\r\n")
                    sent += 4096
            assert sent < 1 << 28
        assert ask(address)[0] == 200


def test_a_slow_body_and_a_steady_one() -> None:
    """The time follows from the size: what comes at the rate may take longer than the silence that is allowed."""
    teacher = CountingTeacher(8, 1)
    body = json.dumps({"seed": 0, "labels": [0] * 100, "candidates": list(range(100))}).encode()
    head = f"POST /images HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    steady = running_service(teacher, body_s=30.0, body_bytes_s=10.0)  # 30 s for silence, so that no load matters
    with steady as address, no_endless_wait(), connect(address) as raw:
        raw.sendall(head)
        for start in range(0, len(body), 150):
            raw.sendall(body[start : start + 150])
            time.sleep(0.01)
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
    slow = running_service(teacher, body_s=0.3, body_bytes_s=1e6)
    with slow as address, no_endless_wait(), connect(address) as raw:
        raw.sendall(head)
        with suppress(OSError):
            for byte in body:
                raw.sendall(bytes([byte]))
                time.sleep(0.02)
        assert everything(raw).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_nobody_takes_is_given_up() -> None:
    poll = pytest.importorskip("select").poll()
    teacher = CountingTeacher(128, 3)
    many = {"seed": 0, "labels": [0] * 400, "candidates": list(range(400))}  # 20 MB
    with running_service(teacher, limits=SHORT) as address, no_endless_wait(), connect(address) as raw:
        body = json.dumps(many).encode()
        raw.sendall(f"POST /images HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert len(raw.recv(1)) == 1
        poll.register(raw, 0)  # the end of the connection alone
        assert poll.poll(60_000)
        assert len(everything(raw)) < 400 * 128 * 128 * 3


def test_a_small_request_does_not_wait_behind_large_ones() -> None:
    teacher = Held(small=1)
    large = {"seed": 0, "labels": [0] * 64, "candidates": list(range(64))}
    with running_service(teacher) as address:
        clients = [threading.Thread(target=ask, args=(address, large)) for _ in range(8)]
        try:
            for client in clients:
                client.start()
            wait_until(lambda: teacher.begun > 0)
            for _ in range(3):
                assert ask(address, {"seed": 0, "labels": [1], "candidates": [3]})[0] == 200
            assert teacher.begun == 4  # one large one, and the small ones beside it
        finally:
            teacher.go_on.set()
            for client in clients:
                client.join(30)
    assert teacher.begun == 11


def test_a_small_request_passes_large_ones_that_have_waited_long() -> None:
    """Clients that ask for blocks without a pause: whoever asks for one image waits for no more than one block."""

    async def order() -> list[int]:
        turns, done = Turns(1), []

        async def work(size: int, times: int) -> None:
            for _ in range(times):
                async with turns.turn(size):
                    await asyncio.sleep(0.001)
                    done.append(size)

        busy = [asyncio.create_task(work(15, 10)) for _ in range(8)]
        while len(done) < 30:
            await asyncio.sleep(0.001)
        begun = len(done)
        await work(1, 1)
        found = done[begun:].index(1)
        await asyncio.gather(*busy)
        return [found, len(done)]

    found, count = asyncio.run(order())
    assert found <= 2  # the block that was at work, and perhaps one that ended in the same moment
    assert count == 81


def test_a_large_request_is_not_passed_without_end() -> None:
    async def order() -> list[int]:
        turns, done = Turns(1), []

        async def work(size: int, times: int) -> None:
            for _ in range(times):
                async with turns.turn(size):
                    await asyncio.sleep(0.001)
                    done.append(size)

        await asyncio.gather(work(3, 50), work(4, 50), work(40, 1), work(41, 1))
        return done

    done = asyncio.run(order())
    assert done.index(40) < 20
    assert done.index(41) < 20
    assert len(done) == 102


def test_a_waiting_request_whose_client_leaves_gives_its_turn_back() -> None:
    async def leave() -> int:
        turns, done = Turns(1), []

        async def work(number: int) -> None:
            async with turns.turn(4):
                await asyncio.sleep(0.002)
                done.append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0.001)
        for task in tasks[1:3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(done)

    assert asyncio.run(leave()) == 3

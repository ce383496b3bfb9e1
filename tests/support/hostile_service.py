"""A teacher service that misbehaves on purpose, byte by byte; and the well-behaved answers that it spoils."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from teacher_sampler.remote import wire
from teacher_sampler.remote.card import encode_card
from teacher_sampler.sampling.settings import SamplerSettings
from tests.support.teacher_service import DIGEST
from tests.support.tiny_sampling import CountingTeacher

Send = Callable[[bytes], None]
Behaviour = Callable[["HostileService", Send], None]


class HostileService:
    """Behaves well at /card unless told otherwise, and at /images as told.  `requests`: (path, headers) that came."""

    def __init__(self, images: Behaviour, card: Behaviour | None = None) -> None:
        self.teacher = CountingTeacher(8, 1)
        self.behaviours = {wire.CARD_PATH: card or good_card, wire.IMAGES_PATH: images}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.ended = threading.Event()

    def asked(self, path: str = wire.IMAGES_PATH) -> int:
        return sum(found == path for found, _ in self.requests)


def answer(body: bytes, status: int = 200, **changes: str | None) -> bytes:
    """An answer as the protocol wants it, headers changed (or left out by None)."""
    headers: dict[str, str | None] = {
        "Content-Length": str(len(body)),
        wire.CONTENT_SHA256: wire.sha256(body),
        wire.TEACHER_DIGEST: DIGEST,
        wire.LATENTS_SHA256: wire.NO_LATENTS,
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    kept: Mapping[str, str | None] = {name: value for name, value in headers.items() if value is not None}
    return head(status, kept) + body


def head(status: int, headers: Mapping[str, Any]) -> bytes:
    named = [f"{name}: {value}" for name, value in headers.items()]
    lines = [f"HTTP/1.1 {status} Whatever", "Connection: close", *named, "", ""]
    return "\r\n".join(lines).encode()


def refusal(status: int, sentence: str = "no.", **headers: str) -> bytes:
    body = json.dumps({"error": sentence}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(status, {"Content-Length": len(body), **named}) + body


def good_card(service: HostileService, send: Send) -> None:
    send(answer(encode_card(service.teacher, DIGEST, 64, True, SamplerSettings())))


def good_body(rows: int = 2) -> bytes:
    """The answer to the tests' request: labels 0 and 1, candidates 0 and 1."""
    levels = CountingTeacher(8, 1).levels(np.arange(rows) % 3, np.arange(rows))
    return wire.encode_images(torch.from_numpy(levels.astype(np.uint8)))


def always(data: bytes) -> Behaviour:
    """This answer, whatever is asked."""
    return lambda service, send: send(data)


class _Handler(socketserver.StreamRequestHandler):
    service: HostileService

    def handle(self) -> None:
        """One request a connection; the client's leaving ends whatever is being sent."""
        first = self.rfile.readline().decode("latin-1").split(" ")
        headers: dict[str, str] = {}
        while (line := self.rfile.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.rfile.read(int(headers.get("content-length", "0")))
        if len(first) < 2:
            return
        self.service.requests.append((first[1], headers))
        with suppress(OSError):
            self.service.behaviours[first[1]](self.service, self._send)

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.service.sent += len(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 50
    encryption: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.encryption is not None:
            try:
                request = self.encryption.wrap_socket(request, server_side=True)
            except OSError:  # the client did not like the certificate
                return
        super().finish_request(request, client_address)
        if self.encryption is not None:
            request.close()


@contextmanager
def misbehaving(
    images: Behaviour, card: Behaviour | None = None, encryption: ssl.SSLContext | None = None
) -> Iterator[tuple[str, HostileService]]:
    """(address, service)."""
    service = HostileService(images, card)
    handler = type("Handler", (_Handler,), {"service": service})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.encryption = encryption
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http{'s' if encryption else ''}://127.0.0.1:{server.server_address[1]}", service
        finally:
            service.ended.set()
            server.shutdown()
            thread.join(10)

"""Connections that cannot be held for nothing: times and numbers that every client keeps, with a token or without.

A connection must bring complete headers within seconds, its request again after each answer, and must take its answer
as it is sent; one that does not is closed.  An address, and all addresses together, have so many connections; where
there are more, the one that has waited longest without a request makes room, so that silent connections keep nobody
out.  What a client still sends after a refusal is neither kept nor waited for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_WAITING = (h11.IDLE, h11.DONE, h11.MUST_CLOSE)  # states of a client that has no request under way


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds, numbers and bytes."""

    headers_s: float = 5.0  # from the connection, or a request's first byte, to the end of its headers
    keep_alive_s: float = 75.0  # between two requests; a sampler weighs, scores and stores between two blocks
    stalled_s: float = 20.0  # so long none of an answer need be taken
    linger_s: float = 1.0  # after a refusal: what still comes is dropped, so that the refusal can be read
    linger_bytes: int = 1 << 20
    per_address: int = 256
    in_all: int = 1000


@dataclass
class Connections:
    """All connections of one server, by address."""

    limits: ConnectionLimits
    open: dict[str, set[GuardedProtocol]] = field(default_factory=dict)

    def make_room(self, newcomer: GuardedProtocol) -> bool:
        """Take the newcomer in; False where every connection in its way has a request under way."""
        own = self.open.setdefault(newcomer.address, set())
        if len(own) >= self.limits.per_address and not _close_idlest(own):
            return False
        everyone = [each for group in self.open.values() for each in group]
        if len(everyone) >= self.limits.in_all and not _close_idlest(everyone):
            return False
        self.open.setdefault(newcomer.address, set()).add(newcomer)
        return True

    def forget(self, connection: GuardedProtocol) -> None:
        """The connection is closed, or will be."""
        own = self.open.get(connection.address, set())
        own.discard(connection)
        if not own:
            self.open.pop(connection.address, None)


def _close_idlest(among: Iterable[GuardedProtocol]) -> bool:
    """Close the one that has waited longest, first among those that have never asked anything."""
    idle = [each for each in among if each.is_idle()]
    if not idle:
        return False
    min(idle, key=lambda each: (each.has_asked, each.idle_since)).drop()
    return True


class _Lingering:
    """A transport whose `close` lets the other side read what was sent, even where it is still sending itself."""

    def __init__(self, transport: asyncio.Transport, protocol: GuardedProtocol) -> None:
        self._transport, self._protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._protocol.lingering or self._transport.is_closing()

    def close(self) -> None:
        self._protocol.leave(self._transport)


class GuardedProtocol(H11Protocol):
    """uvicorn's connection under `ConnectionLimits`; `guarded` makes the class for one server."""

    connections: Connections  # type: ignore[assignment]  # set by `guarded`; uvicorn's own set is server_state's

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._everyone = type(self).connections
        self._limits = self._everyone.limits
        self.connections = self.server_state.connections  # type: ignore[assignment]
        self.app = _closing_after_refusal(self.app, self)
        self.address, self.lingering, self.has_asked = "", False, False
        self.idle_since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._dropped, self._unread = 0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]
        self.address = _network(self.client)
        if not self._everyone.make_room(self):
            self._refuse(503, "the service has as many connections as it takes; try again later.", "Retry-After: 1")
            return
        self._within(self._limits.headers_s, self._no_request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._everyone.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self._dropped += len(data)
            if self._dropped > self._limits.linger_bytes:
                self.transport.abort()
            return
        if self.conn.their_state is h11.IDLE and self._timer is None:  # a further request begins
            self._within(self._limits.headers_s, self._no_request)
        super().data_received(data)
        if self.conn.their_state not in _WAITING:
            self.has_asked = True
            self._cancel()

    def eof_received(self) -> None:
        if self.lingering:
            self.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.idle_since = time.monotonic()
        self._unread = self.transport.get_write_buffer_size()
        if self._unread:
            self._within(self._limits.stalled_s, self._still_unread)

    def is_idle(self) -> bool:
        """Whether no request is under way: none has come whole, or the last one is answered."""
        asked = self.cycle is not None and not self.cycle.response_complete
        return not asked and not self.transport.get_write_buffer_size()

    def drop(self) -> None:
        """Close at once; the place is free from now on."""
        self._everyone.forget(self)
        self.transport.abort()

    def leave(self, transport: asyncio.Transport) -> None:
        """Close, and where the client is still sending, drop that for a moment first: an end with unread bytes would
        take the answer with it."""
        if self.lingering or transport.is_closing():
            return
        self._cancel()
        nothing_asked = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.CLOSED
        whole = nothing_asked or self.conn.their_state in (h11.DONE, h11.CLOSED, h11.MUST_CLOSE)
        if whole or not transport.can_write_eof():
            transport.close()
        else:
            self.lingering = True
            transport.resume_reading()
            transport.write_eof()
            self._within(self._limits.linger_s, transport.abort)
            return
        if transport.get_write_buffer_size():
            self._unread = transport.get_write_buffer_size()
            self._within(self._limits.stalled_s, self._still_unread)

    def _no_request(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE:
            self._refuse(408, f"no complete request came within {self._limits.headers_s:g} s.")

    def _still_unread(self) -> None:
        self._timer = None
        left = self.transport.get_write_buffer_size()
        if left >= self._unread:
            reset = struct.pack("ii", 1, 0)  # otherwise the kernel would keep its part of the answer, and wait
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.transport.abort()
        else:
            self._unread = left
            self._within(self._limits.stalled_s, self._still_unread)

    def _refuse(self, status: int, sentence: str, *headers: str) -> None:
        """An answer outside of any request, then the end."""
        body = json.dumps({"error": sentence}).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        words = "Request Timeout" if status == 408 else "Service Unavailable"
        head = "\r\n".join([f"HTTP/1.1 {status} {words}", kind, *headers, "", ""])
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _within(self, seconds: float, work: Any) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, work)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def guarded(limits: ConnectionLimits) -> type[GuardedProtocol]:
    """The class of one server's connections, which share the limits."""
    return type("Guarded", (GuardedProtocol,), {"connections": Connections(limits)})


def _closing_after_refusal(app: Any, protocol: GuardedProtocol) -> Any:
    """The application; an answer to a request that has not come whole says that the connection ends with it."""

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start" and protocol.conn.their_state is h11.SEND_BODY:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, sending)

    return closing


def _network(client: tuple[str, int] | None) -> str:
    """By what clients are counted: the address, of IPv6 the network that one customer gets."""
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)

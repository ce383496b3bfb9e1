"""Requests to a teacher service that may die, stall, lie or be another one by now.

Faults that pass (no connection, a broken-off or damaged answer, a service that is busy) are tried again with growing
pauses, for a bounded time.  All else is one UserError at once.  Nothing is read that was not expected: sizes, time and
redirects are bounded, so a hostile service costs neither memory nor time nor the token.
"""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Retry, Timeout, Url, parse_url

from runtime.errors import UserError
from runtime.progress import say
from runtime.safe_files import parse_json
from teacher_sampler.remote import wire
from teacher_sampler.remote.wire import AnswerError

_PIECE_BYTES = 1 << 18
_BUSY = (429, 502, 503, 504)
_REMEDIES = {
    400: "use versions of both sides that fit together",
    401: f"set the environment variable {wire.TOKEN_VARIABLE} to its token",
    403: "ask its operator for access",
    404: "give the address that serve-teacher printed",
    405: "give the address that serve-teacher printed",
    413: "ask for fewer candidates at once with --block-size",
    422: "use versions of both sides that fit together",
}
_TOO_SLOW = "its answer comes too slowly"
_SENTENCE = 300  # characters of what a service says that are shown

# A machine that has died says nothing.  These ask it whether it is there: after 20 s, and three times more.
_KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]

Read = TypeVar("Read")


@dataclass(frozen=True)
class Patience:
    """Seconds.  `give_up_s` bounds the time from the first fault to the last try, however many tries that is."""

    meet_s: float = 10.0  # as give_up_s, for the first request: an address may be a mistake
    connect_s: float = 5.0
    answer_s: float = 600.0  # until all headers are there: a service computes before it answers
    body_s: float = 300.0
    give_up_s: float = 60.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0


@dataclass(frozen=True)
class Reply:
    """A good answer: its digest has been checked."""

    body: bytes
    headers: Mapping[str, str]


class PassingFault(Exception):
    """Something that another try may not meet; `wait_s`: how long the service asks to wait."""

    def __init__(self, sentence: str, wait_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.wait_s = wait_s


class Transport:
    """One service, named by its address.  Safe for threads; a forked process opens connections of its own."""

    def __init__(self, url: str, token: str | None, patience: Patience) -> None:
        self.url, self.patience = url.rstrip("/"), patience
        self._place = check_url(url)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "retort"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
            if self._place.scheme == "http" and not is_loopback(str(self._place.hostname)):
                say(f"warning: {self.url} is not encrypted: the token and the images can be read on the way")
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._owner, self._met = 0, False

    def ask(self, path: str, body: bytes | None, most_bytes: int, read: Callable[[Reply], Read]) -> Read:
        """`read(reply)` of an answer of at most `most_bytes` to GET, or to POST where there is a body.

        `read` may raise AnswerError.  UserError naming the address: the service stays away, refuses, or is none.
        """
        give_up_s = self.patience.give_up_s if self._met else self.patience.meet_s
        pause, first_fault = self.patience.first_pause_s, 0.0
        while True:
            try:
                answer = read(self._once(path, body, most_bytes))
                self._met = True
                return answer
            except AnswerError as error:
                raise UserError(
                    f"{self.url} is no teacher service that can be trusted: {error}; give the address that "
                    f"serve-teacher printed, and use versions of both sides that fit together."
                ) from error
            except PassingFault as fault:
                now = time.monotonic()
                if not first_fault:
                    first_fault = now
                    say(f"{self.url}: {fault}; trying again for {give_up_s:g} s")
                wait = max(fault.wait_s, pause * random.uniform(0.5, 1.0))
                if now + wait > first_fault + give_up_s:
                    raise UserError(
                        f"{self.url} does not serve: {fault}, after {now - first_fault:.0f} s of trying; start "
                        f"serve-teacher there, and run the same command again to continue."
                    ) from fault
                time.sleep(wait)
                pause = min(2.0 * pause, self.patience.longest_pause_s)

    def _once(self, path: str, body: bytes | None, most_bytes: int) -> Reply:
        """One try.  PassingFault, AnswerError or UserError."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        begin = time.monotonic()
        deadline = begin + self.patience.answer_s + self.patience.body_s
        try:
            response = self._connections().urlopen(
                "GET" if body is None else "POST",
                (self._place.path or "").rstrip("/") + path,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=self.patience.connect_s, read=self.patience.answer_s),
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if time.monotonic() - begin >= self.patience.answer_s:
                raise PassingFault(f"no answer within {self.patience.answer_s:g} s") from error
            raise self._broken(error) from error
        whole = False
        watch = _watch(getattr(response.connection, "hang_up", None), deadline - time.monotonic())
        try:
            received = self._read(response, most_bytes if response.status == 200 else wire.SENTENCE_BYTES, deadline)
            whole = True
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise PassingFault(_TOO_SLOW) if time.monotonic() >= deadline else self._broken(error) from error
        finally:
            watch.cancel()
            if whole:
                response.release_conn()
            else:
                response.close()  # what may still come on this connection is not wanted
        if time.monotonic() >= deadline:  # endless trailers
            raise PassingFault(_TOO_SLOW)
        if response.status != 200:
            raise self._refusal(response.status, response.headers, received)
        return _checked(received, response.headers)

    def _read(self, response: Any, most_bytes: int, deadline: float) -> bytes:
        """The body, never more than expected, whatever its length claims to be."""
        good = response.status == 200
        length = response.headers.get("Content-Length", "")
        if good and response.headers.get("Content-Encoding", "identity") != "identity":
            raise AnswerError("its answer is compressed, which was not asked for")
        if good and length.isdigit() and (len(length) > 18 or int(length) > most_bytes):
            raise AnswerError(f"its answer of {length[:20]} bytes is longer than the {most_bytes} that fit the request")
        body = bytearray()
        while len(body) <= most_bytes:
            piece = response.read1(min(_PIECE_BYTES, most_bytes + 1 - len(body)))
            if not piece:
                return bytes(body)
            body += piece
            if time.monotonic() > deadline:
                raise PassingFault(_TOO_SLOW)
        if good:
            raise AnswerError(f"its answer is longer than the {most_bytes} bytes that fit the request")
        response.close()
        return bytes(body)

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        said = _sentence(body)
        if status in _BUSY:
            wait_s = _retry_after(headers.get("Retry-After"))
            asks = f" and asks to wait {wait_s:.0f} s" if wait_s else ""
            return PassingFault(f"it is busy (HTTP {status}){said}{asks}", wait_s)
        if 300 <= status < 400:
            return UserError(f"{self.url} redirects elsewhere (HTTP {status}); give the teacher service's own address.")
        remedy = _REMEDIES.get(status, "see the messages of the service")
        return UserError(f"{self.url} refuses with HTTP {status}{said}; {remedy}.")

    def _broken(self, error: Exception) -> Exception:
        """What an exception of the network means."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return UserError(
                    f"{self.url} has a certificate that cannot be verified ({cause.verify_message}); give the name "
                    f"that it is made out to, or set SSL_CERT_FILE to the authority's file."
                )
            cause = cause.__cause__ or cause.__context__
        reasons = {
            urllib3.exceptions.NewConnectionError: "no connection",
            urllib3.exceptions.ConnectTimeoutError: f"no connection within {self.patience.connect_s:g} s",
            urllib3.exceptions.ReadTimeoutError: "its answer does not come to an end",
            urllib3.exceptions.SSLError: "no encrypted connection",
            urllib3.exceptions.ProtocolError: "the connection broke off",
        }
        names = (text for kind, text in reasons.items() if isinstance(error, kind))
        return PassingFault(next(names, "the connection failed"))

    def _connections(self) -> urllib3.HTTPConnectionPool:
        if self._pool is None or self._owner != os.getpid():
            secure = self._place.scheme == "https"
            kind = urllib3.HTTPSConnectionPool if secure else urllib3.HTTPConnectionPool
            options = [*HTTPConnection.default_socket_options, *_KEEP_ALIVE]
            pool = kind(str(self._place.hostname), self._place.port, maxsize=4, socket_options=options)
            pool.ConnectionCls = _Secure if secure else _Plain
            self._pool, self._owner = pool, os.getpid()
        return self._pool


def _watch(hang_up: Callable[[], None] | None, seconds: float) -> threading.Timer:
    """Hangs up after so long, unless cancelled; the socket's own time-out starts anew with every byte."""
    watch = threading.Timer(max(0.0, seconds), hang_up or _nothing)
    watch.daemon = True
    watch.start()
    return watch


def _nothing() -> None: ...


class _Watched:
    """Hangs up when the headers as a whole take too long, and on request while the body comes."""

    sock: Any
    timeout: Any  # of a read, as the pool sets it
    _in_use: Any = None  # a connection that ends with its answer has let go of its socket by then

    def getresponse(self) -> Any:
        self._in_use = self.sock
        watch = _watch(self.hang_up, self.timeout)
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            watch.cancel()

    def hang_up(self) -> None:
        """What is being read ends."""
        if self._in_use is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._in_use, socket.SHUT_RDWR)  # below TLS, where there is some


class _Plain(_Watched, HTTPConnection):
    pass


class _Secure(_Watched, HTTPSConnection):
    pass


def check_url(url: str) -> Url:
    """The parts of a service's address; UserError where it is none, or holds a password."""
    try:
        place = parse_url(url)
    except urllib3.exceptions.HTTPError as error:
        raise UserError(f"{url[:_SENTENCE]!r} is no address; give http://HOST:PORT or https://HOST.") from error
    if place.auth or place.query or place.fragment:
        raise UserError(
            f"the address of the teacher service at {place.host} may hold no user name, password, query or fragment; "
            f"set {wire.TOKEN_VARIABLE} to the token and give http(s)://HOST:PORT."
        )
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UserError(f"{url[:_SENTENCE]!r} is no address; give http://HOST:PORT or https://HOST.")
    return place


def is_loopback(host: str) -> bool:
    """Whether a host's name or number is this machine's own, seen by nobody else."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(body: bytes, headers: Mapping[str, str]) -> Reply:
    claimed = headers.get(wire.CONTENT_SHA256)
    if claimed is None and not body:
        raise PassingFault("the connection broke off")  # in the headers, perhaps
    if claimed is None:
        raise AnswerError(f"its answer has no header {wire.CONTENT_SHA256}")
    if wire.sha256(body) != claimed:
        raise PassingFault("its answer does not match its own digest")
    return Reply(body, headers)


def _sentence(body: bytes) -> str:
    """What a service says of an error, escaped for a terminal; empty where it says nothing readable."""
    try:
        said = parse_json(body, "the answer")["error"]
    except (UserError, KeyError, TypeError):
        return ""
    if not isinstance(said, str) or not said:
        return ""
    return f" ({''.join(part for part in said[:_SENTENCE] if part.isprintable()).rstrip('.')})"


def _retry_after(text: str | None) -> float:
    """Seconds; 0 where the header is missing or makes no sense."""
    if not text:
        return 0.0
    try:
        return max(0.0, float(Retry().parse_retry_after(text)))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0

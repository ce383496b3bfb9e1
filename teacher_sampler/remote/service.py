"""The service: `create_app(teacher, digest, settings)` answers requests for images with images, and with nothing else.

A block of candidates comes out with the bytes that a local worker of the sampler gets for it: the sampler's fixed
numerics hold in every thread that computes.  Weights, paths and tracebacks never leave; a request is counted before it
is read and checked before it is computed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from interfaces import LabelSpace, Teacher
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.progress import say
from runtime.seeds import label_bits
from teacher_sampler.remote import wire
from teacher_sampler.remote.card import decode_card, encode_card
from teacher_sampler.remote.connections import ConnectionLimits, guarded
from teacher_sampler.remote.turns import Turns
from teacher_sampler.remote.wire import AnswerError, RequestError
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import fixed_numerics
from training.generator_folder import card_latents

NUMERICS = SamplerSettings()  # threads, TF32 and determinism of a sampler's worker
_FINISH_S = 30  # for the requests under way when the service is stopped
_BACKLOG = 1000
_SEE_THERE = "see the service's own messages."

Answer = tuple[bytes, dict[str, str]]  # a body and its headers


@dataclass(frozen=True)
class ServiceSettings:
    """What the operator decides."""

    max_batch: int = 4096  # candidates in one request
    workers: int = 1  # requests computed at the same time, one thread each
    token: str | None = None  # clients must know it; None lets everybody in
    body_s: float = 5.0  # a request's body may be silent for so long in all ...
    body_bytes_s: float = 16384.0  # ... and must otherwise come at this rate


class _Computing:
    """The teacher at work: pure functions of the request, run in the threads of a pool."""

    def __init__(self, teacher: Teacher, digest: str, settings: ServiceSettings) -> None:
        self.teacher, self.digest, self.settings = teacher, digest, settings
        self.space: LabelSpace = teacher.label_space
        self.request_bytes = wire.request_bytes(self.space, settings.max_batch)
        label = first_label(self.space)
        _check_latents(teacher, label)
        self.card = encode_card(teacher, digest, settings.max_batch, teacher.candidates(label) is None, NUMERICS)
        try:
            decode_card(self.card)
        except AnswerError as error:
            raise UserError(f"this teacher cannot be served: {error}; mend its card.json.") from error

    def answer(self, body: bytes, **headers: str) -> Answer:
        """With the headers of every good answer."""
        return body, {wire.CONTENT_SHA256: wire.sha256(body), wire.TEACHER_DIGEST: self.digest, **headers}

    def images(self, asked: wire.ImagesRequest) -> Answer:
        """The images of the candidates; RequestError where a label has not so many, or a pixel is no number."""
        with fixed_numerics(NUMERICS):
            counts = self.teacher.candidates(asked.labels)
            if counts is not None and bool((asked.candidates >= counts).any()):
                row = int(np.flatnonzero(asked.candidates >= counts)[0])
                raise RequestError(422, f"label {asked.labels[row]} has only {counts[row]} candidates.")
            keys = np.stack([label_bits(asked.labels), asked.candidates], axis=1)
            latents = self.teacher.latents(keys, asked.seed)
            pixels = self.teacher.generate(latents, asked.labels, keys, asked.seed)
            if tuple(pixels.shape) != (len(keys), *image_shape(self.teacher)):
                raise RequestError(
                    500, "the teacher gives images of another shape than its card says; import it again."
                )
            if not bool(torch.isfinite(pixels).all()):
                raise RequestError(500, "the teacher gives pixels that are not numbers; train or import it again.")
            body = wire.encode_images(quantise(pixels))
            return self.answer(body, **{wire.LATENTS_SHA256: wire.latents_sha256(latents)})

    def counts(self, labels: np.ndarray) -> Answer:
        """How many candidates each label has."""
        return self.answer(wire.encode_counts(self.teacher.candidates(labels)))


def first_label(space: LabelSpace) -> np.ndarray:
    """Some valid label, as an array of one."""
    return np.zeros(1, dtype=np.int64) if space.kind == "classes" else space.decode(torch.zeros(1, space.width))


def image_shape(teacher: Teacher) -> tuple[int, int, int]:
    """C, H, W."""
    return teacher.card.channels, teacher.card.resolution_px, teacher.card.resolution_px


def _check_latents(teacher: Teacher, label: np.ndarray) -> None:
    """Clients work the latents out from the card; UserError where that would give others."""
    keys = np.stack([np.repeat(label_bits(label), 2), np.array([0, 5])], axis=1)
    own = teacher.latents(keys, 3)
    from_card = card_latents(teacher.card, keys, 3) if teacher.card.latent else None
    if wire.latents_sha256(own) != wire.latents_sha256(from_card):
        raise UserError("this teacher's latents are not those that its card.json describes; import it again.")


def create_app(teacher: Teacher, digest: str, settings: ServiceSettings) -> FastAPI:
    """The application.  `digest` is the teacher's identity, by which fakes name their source.

    UserError where the teacher cannot be served: its card says something else than it does.
    """
    computing = _Computing(teacher, digest, settings)
    threads = _Threads(settings.workers)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=threads.lifespan)
    guarded: dict[str, Any] = {"dependencies": [Depends(_authorise(settings.token))]}
    _refuse_in_sentences(app)

    @app.get(wire.HEALTH_PATH)
    async def health() -> JSONResponse:
        return JSONResponse({"ok": True, "version": wire.PROTOCOL})

    @app.get(wire.CARD_PATH, **guarded)
    async def card() -> Response:
        return _response(computing.answer(computing.card), "application/json")

    @app.post(wire.IMAGES_PATH, **guarded)
    async def images(request: Request) -> Response:
        body = await _body(request, computing.request_bytes, settings)
        asked = wire.decode_images_request(body, computing.space, settings.max_batch)
        images = len(asked.labels)
        return await threads.compute(request, computing.images, asked, "application/octet-stream", images)

    @app.post(wire.CANDIDATES_PATH, **guarded)
    async def candidates(request: Request) -> Response:
        body = await _body(request, computing.request_bytes, settings)
        labels = wire.decode_labels_request(body, computing.space, settings.max_batch)
        return await threads.compute(request, computing.counts, labels, "application/json")

    return app


class _Threads:
    """So many requests are computed at once (see `turns`), and those whose client has left meanwhile are dropped."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The process keeps the fixed numerics while it serves, so no thread restores them under another's feet."""
        self._turns = Turns(self.workers)
        with (
            fixed_numerics(NUMERICS),
            ThreadPoolExecutor(self.workers + 1, "teacher", torch.set_num_threads, (NUMERICS.threads,)) as self._pool,
        ):
            yield

    async def compute(
        self, request: Request, work: Callable[[Any], Answer], asked: Any, kind: str, images: int = 1
    ) -> Response:
        """The answer of `work(asked)`; whatever goes wrong there is a sentence here and a message on stderr."""
        async with self._turns.turn(images):
            if await request.is_disconnected():
                raise RequestError(400, "the client has left.")
            try:
                answer = await asyncio.get_running_loop().run_in_executor(self._pool, work, asked)
            except RequestError:
                raise
            except Exception as error:
                say(f"a request failed: {type(error).__name__}: {error}")
                raise RequestError(500, f"the teacher failed on this request; {_SEE_THERE}") from error
        return _response(answer, kind)


def _response(answer: Answer, kind: str) -> Response:
    return Response(answer[0], media_type=kind, headers=answer[1])


def _authorise(token: str | None) -> Callable[[Request], Any]:
    """A dependency that lets nobody in without the token.  The time it takes tells nothing of the token."""
    wanted = None if token is None else hashlib.sha256(f"Bearer {token}".encode()).digest()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if wanted is not None and not hmac.compare_digest(hashlib.sha256(given).digest(), wanted):
            raise RequestError(401, f"this service wants the right bearer token; set {wire.TOKEN_VARIABLE}.")

    return check


async def _body(request: Request, limit: int, settings: ServiceSettings) -> bytes:
    """The request's body.  RequestError: 413 longer than `limit`, 408 too slow, 400 broken off."""
    too_long = RequestError(413, f"the request is longer than {limit} bytes; ask for fewer candidates at once.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 18 or int(declared) > limit:
        raise too_long
    body, loop = bytearray(), asyncio.get_running_loop()
    begin = loop.time()
    try:
        async with asyncio.timeout_at(begin + settings.body_s) as allowed:
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise too_long
                allowed.reschedule(begin + settings.body_s + len(body) / settings.body_bytes_s)
    except TimeoutError as error:
        raise RequestError(408, f"the request's body came too slowly: silent for {settings.body_s:g} s.") from error
    except ClientDisconnect as error:
        raise RequestError(400, "the request's body broke off.") from error
    return bytes(body)


def _refuse_in_sentences(app: FastAPI) -> None:
    """Every error is a JSON object with one sentence."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return JSONResponse({"error": error.sentence}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"the service failed on this request; {_SEE_THERE}"}, 500)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 takes a free one.  OSError where that cannot be.

    It says that it speaks TCP, since asyncio sends small pieces at once only then: otherwise an answer waits 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a successor of one that was killed
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def make_server(app: FastAPI, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """A server for one bound socket: `server.run(sockets=[socket])`.  It says nothing unless something goes wrong."""
    limits = limits or ConnectionLimits(in_all=_most_connections())
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=guarded(limits),
            ws="none",
            lifespan="on",
            log_level="error",  # a warning for every line that is no HTTP would be the client's to write
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=min(_BACKLOG, limits.in_all // 4 + 1),  # taken in one go, before any is refused
            timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type]  # whole seconds are not needed
            timeout_graceful_shutdown=_FINISH_S,
        )
    )


def _most_connections() -> int:
    """As many as the process may open files for, less those that it needs for other things."""
    most = ConnectionLimits.in_all
    try:
        import resource
    except ImportError:  # Windows, where there is no such limit
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        wanted = 2 * most if hard == resource.RLIM_INFINITY else min(hard, 2 * most)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(8, min(most, soft // 2))

"""The client against services that fail, lie and attack: one sentence each, in bounded time and memory."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from layers.pixels import quantise
from runtime.errors import UserError
from teacher_sampler.remote import wire
from teacher_sampler.remote.card import encode_card
from teacher_sampler.remote.client import RemoteTeacher
from teacher_sampler.remote.transport import Patience, check_url, is_loopback
from teacher_sampler.sampling.settings import SamplerSettings
from tests.support.hostile_service import (
    Behaviour,
    HostileService,
    Send,
    always,
    answer,
    good_body,
    head,
    misbehaving,
    refusal,
)
from tests.support.teacher_service import DIGEST, QUICK, STEADY, keys_of, no_endless_wait
from tests.support.tiny_sampling import CountingTeacher

LABELS = np.array([0, 1])
KEYS = keys_of(LABELS)
LEVELS = CountingTeacher(8, 1).levels(LABELS, KEYS[:, 1])
BODY = good_body()


def ask(address: str, labels: np.ndarray = LABELS, patience: Patience = QUICK) -> torch.Tensor:
    teacher = RemoteTeacher.connect(address, patience=patience)
    return quantise(teacher.generate(None, labels, keys_of(labels), 0))


def one_sentence(error: pytest.ExceptionInfo[UserError], address: str) -> str:
    told = str(error.value)
    assert told.startswith(address)
    assert told.endswith(".")
    assert "\n" not in told
    assert "\x1b" not in told
    assert len(told) < 700
    assert ";" in told  # the remedy
    return told


def test_the_hostile_service_can_behave() -> None:
    with misbehaving(always(answer(BODY))) as (address, service):
        assert np.array_equal(ask(address).numpy(), LEVELS)
        assert service.asked() == 1
        assert service.requests[1][1]["accept-encoding"] == "identity"
        assert "authorization" not in service.requests[1][1]


def drip(data: bytes, every_s: float) -> Behaviour:
    """The bytes one by one."""

    def behave(service: HostileService, send: Send) -> None:
        for byte in data:
            if service.ended.wait(every_s):
                return
            send(bytes([byte]))

    return behave


def endless(first: bytes, again: bytes) -> Behaviour:
    def behave(service: HostileService, send: Send) -> None:
        send(first)
        while not service.ended.is_set():
            send(again)

    return behave


def silence(service: HostileService, send: Send) -> None:
    service.ended.wait(30)


HEADERS = {wire.CONTENT_SHA256: "0" * 64, wire.TEACHER_DIGEST: "0" * 64}
ONE_MORE = good_body(3)
FLOATS = save({"images": (LEVELS / 255).astype(np.float32)})
SIGNED = save({"images": np.zeros((2, 1, 8, 8), np.int8)})
TALL = save({"images": np.zeros((2, 1, 16, 4), np.uint8)})
WEIGHTS = save({"images": LEVELS[:1].astype(np.uint8), "w": np.zeros(60, np.uint8)})
CHUNK = b"8000\r\n" + b"x" * 32768 + b"\r\n"

AT_ONCE: dict[str, tuple[Behaviour, str]] = {  # no second try helps: what is sent, what the sentence says
    "one image more": (always(answer(ONE_MORE)), "shape"),
    "floats": (always(answer(FLOATS)), "float32"),
    "signed": (always(answer(SIGNED)), "int8"),
    "another shape of the same size": (always(answer(TALL)), "shape"),
    "two tensors": (always(answer(WEIGHTS)), "2 tensors"),
    "no safetensors": (always(answer(b"hello")), "safetensors"),
    "empty": (always(answer(b"")), "safetensors"),
    "giant length": (always(head(200, {**HEADERS, "Content-Length": 10**13}) + b"x" * 9), "longer"),
    "absurd length": (always(head(200, {**HEADERS, "Content-Length": "9" * 4000}) + b"x" * 9), "longer"),
    "endless chunks": (endless(head(200, {**HEADERS, "Transfer-Encoding": "chunked"}), CHUNK), "longer"),
    "endless body": (endless(head(200, HEADERS), b"x" * 32768), "longer"),
    "compressed": (always(answer(BODY, Content_Encoding="gzip")), "compressed"),
    "no digest": (always(answer(BODY, X_Content_SHA256=None)), "X-Content-SHA256"),
    "other latents": (always(answer(BODY, X_Latents_SHA256="0" * 64)), "latents"),
    "no latents' digest": (always(answer(BODY, X_Latents_SHA256=None)), "latents"),
    "another teacher": (always(answer(BODY, X_Teacher_Digest="f" * 64)), "another teacher"),
    "a web page": (always(head(200, {"Content-Length": 6}) + b"<html>"), "X-Content-SHA256"),
    "no content": (always(head(204, {})), "HTTP 204"),
    "400": (always(refusal(400)), "HTTP 400"),
    "401": (always(refusal(401)), "RETORT_TEACHER_TOKEN"),
    "403": (always(refusal(403)), "HTTP 403"),
    "404": (always(refusal(404)), "serve-teacher"),
    "413": (always(refusal(413)), "--block-size"),
    "422": (always(refusal(422, "label 7 is none.")), "label 7 is none"),
    "500": (always(refusal(500)), "HTTP 500"),
    "an endless error": (endless(head(500, {}), b"x" * 32768), "HTTP 500"),
    "a terminal's commands": (always(refusal(422, "\x1b[2J\nred" + "x" * 2000)), "HTTP 422"),
    "an error that is no JSON": (always(head(500, {"Content-Length": 3}) + b"[[["), "HTTP 500"),
    "busy for an hour": (always(refusal(503, Retry_After="3600")), "asks to wait 3600 s"),
}
IN_VAIN: dict[str, tuple[Behaviour, str]] = {  # tried again until patience ends
    "wrong digest": (always(answer(BODY, X_Content_SHA256="0" * 64)), "digest"),
    "truncated": (always(answer(BODY)[:-5]), "broke off"),
    "cut in the first line": (always(answer(BODY)[:10]), "broke off"),
    "cut between headers": (always(answer(BODY)[:40]), "broke off"),
    "cut in the digest": (always(answer(BODY)[:100]), "broke off"),
    "no HTTP": (always(b"\x00\x01garbage\r\n\r\n"), "broke off"),
    "a giant header": (always(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000), "broke off"),
    "a thousand headers": (always(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"), "broke off"),
    "endless continues": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "no answer within"),
    "slow headers": (drip(answer(BODY), 0.05), "no answer within"),
    "slow body": (lambda service, send: (send(answer(BODY)[:-90]), drip(BODY, 0.05)(service, send))[0], "slowly"),
    "silence": (silence, "no answer within"),
    "hanging up": (lambda service, send: None, "broke off"),
    "busy": (always(refusal(503)), "busy"),
    "bad gateway": (always(refusal(502)), "busy"),
    "too many": (always(refusal(429, Retry_After="soon")), "busy"),
}


@pytest.mark.parametrize("name", sorted(AT_ONCE))
def test_what_no_second_try_helps(name: str) -> None:
    behaviour, told = AT_ONCE[name]
    with misbehaving(behaviour) as (address, service), no_endless_wait():
        with pytest.raises(UserError) as error:
            ask(address)
        assert told in one_sentence(error, address)
        assert service.asked() == 1
        assert service.sent < 16 << 20


@pytest.mark.parametrize("name", sorted(IN_VAIN))
def test_what_is_tried_again_in_vain(name: str) -> None:
    behaviour, told = IN_VAIN[name]
    with misbehaving(behaviour) as (address, service), no_endless_wait():
        with pytest.raises(UserError) as error:
            ask(address)
        assert told in one_sentence(error, address)
        assert service.asked() >= 2
        assert service.sent < 64 << 20


@pytest.mark.parametrize("name", sorted(set(IN_VAIN) - {"silence", "slow headers", "slow body", "endless continues"}))
def test_what_passes_is_forgotten(name: str) -> None:
    behaviour = IN_VAIN[name][0]

    def twice(service: HostileService, send: Send) -> None:
        if service.asked() <= 2:
            behaviour(service, send)
        else:
            send(answer(BODY))

    with misbehaving(twice) as (address, service):
        assert np.array_equal(ask(address, patience=STEADY).numpy(), LEVELS)
        assert service.asked() == 3


def test_a_service_may_ask_to_wait() -> None:
    times = []

    def once(service: HostileService, send: Send) -> None:
        times.append(time.monotonic())
        send(refusal(503, Retry_After="1") if len(times) == 1 else answer(BODY))

    with misbehaving(once) as (address, _):
        ask(address, patience=STEADY)
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_follows_no_redirect(status: int) -> None:
    with misbehaving(always(answer(BODY))) as (elsewhere, thief):
        moved = always(refusal(status, Location=f"{elsewhere}/images"))
        with misbehaving(moved) as (address, service):
            teacher = RemoteTeacher.connect(address, token="s3cret", patience=QUICK)
            with pytest.raises(UserError, match="redirects") as error:
                teacher.generate(None, LABELS, KEYS, 0)
            assert "s3cret" not in one_sentence(error, address)
            assert service.requests[1][1]["authorization"] == "Bearer s3cret"
        assert thief.requests == []


GARBAGE: dict[str, bytes] = {
    "a web page": b"<html>",
    "a list": b"[]",
    "nested": b"[" * 200_000,
    "nothing": b"",
    "too long": b" " * (wire.CARD_BYTES + 1),
    "another's digest": encode_card(CountingTeacher(), "e" * 64, 8, True, SamplerSettings()),
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_garbage_for_a_card(name: str) -> None:
    with misbehaving(silence, always(answer(GARBAGE[name]))) as (address, service), no_endless_wait():
        with pytest.raises(UserError, match="no teacher service") as error:
            RemoteTeacher.connect(address, patience=QUICK)
        one_sentence(error, address)
        assert len(service.requests) == 1


def test_nobody_there() -> None:
    with misbehaving(silence) as (address, _):
        pass
    with no_endless_wait(), pytest.raises(UserError, match="no connection") as error:
        RemoteTeacher.connect(address, patience=QUICK)
    one_sentence(error, address)


def test_no_encryption_where_it_was_asked_for() -> None:
    with misbehaving(silence, silence) as (address, _), no_endless_wait():
        secure = address.replace("http://", "https://")
        with pytest.raises(UserError) as error:
            RemoteTeacher.connect(secure, patience=QUICK)
        one_sentence(error, secure)


def test_a_certificate_must_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    made = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=teacher -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(f"{made} -keyout key.pem -out cert.pem".split(), cwd=tmp_path, check=True, capture_output=True)
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encryption.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with misbehaving(always(answer(BODY)), encryption=encryption) as (address, service):
        with pytest.raises(UserError, match="certificate") as error, no_endless_wait():
            RemoteTeacher.connect(address, token="s3cret", patience=STEADY)
        one_sentence(error, address)
        assert service.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert np.array_equal(ask(address, patience=STEADY).numpy(), LEVELS)


def test_blocks_larger_than_the_service_makes() -> None:
    with misbehaving(always(answer(BODY))) as (address, service):
        with pytest.raises(UserError, match="--block-size 64") as error:
            ask(address, np.zeros(65, dtype=np.int64))
        one_sentence(error, address)
        assert service.asked() == 0


def test_images_that_no_memory_holds() -> None:
    giant = encode_card(CountingTeacher(4096, 16), DIGEST, 64, True, SamplerSettings())
    with misbehaving(always(answer(BODY)), always(answer(giant))) as (address, service):
        with pytest.raises(UserError, match="smaller --block-size") as error:
            ask(address, np.zeros(9, dtype=np.int64))
        one_sentence(error, address)
        assert service.asked() == 0


def test_what_a_remote_teacher_cannot_do() -> None:
    with misbehaving(always(answer(BODY))) as (address, service):
        teacher = RemoteTeacher.connect(address, patience=QUICK)
        with pytest.raises(UserError, match="--dtype"), torch.autocast("cpu", dtype=torch.bfloat16):
            teacher.generate(None, LABELS, KEYS, 0)
        with pytest.raises(ValueError, match="keys"):
            teacher.generate(None, LABELS[::-1].copy(), KEYS, 0)
        assert service.asked() == 0
        with pytest.raises(ValueError, match="latents"):
            teacher.generate(torch.zeros(2, 4), LABELS, KEYS, 0)


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "http://user:pass@host:1", "http://token@host", "http://host/?q=1", "http://host/#x",
     "http://host:99999999", "http://[::1", "https:///path"],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError) as error:
        RemoteTeacher.connect(url, patience=QUICK)
    assert "pass" not in str(error.value).replace("password", "")
    assert re.search(r"give http", str(error.value))


def test_a_path_before_the_services_own() -> None:
    assert check_url("https://example.org:8443/teachers/a").path == "/teachers/a"
    with misbehaving(silence) as (address, service):
        service.behaviours["/a/b/card"] = service.behaviours[wire.CARD_PATH]
        service.behaviours["/a/b/images"] = always(answer(BODY))
        assert np.array_equal(ask(f"{address}/a/b/").numpy(), LEVELS)


@pytest.mark.parametrize("token", ["two words", "line\nX-Evil: 1"])
def test_tokens_that_would_break_the_header(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wire.TOKEN_VARIABLE, token)
    with pytest.raises(UserError, match="RETORT_TEACHER_TOKEN") as error:
        RemoteTeacher.connect("http://127.0.0.1:9", patience=QUICK)
    assert token not in str(error.value)


def test_a_token_on_an_open_line_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("teacher_sampler.remote.transport.say", told.append)
    monkeypatch.setattr("teacher_sampler.remote.transport.Transport._once", no_connection)
    expected = {"http://192.0.2.1:5": 1, "https://192.0.2.1": 0, "http://127.0.0.1:5": 0, "http://[::1]:5": 0}
    for url, times in expected.items():
        told.clear()
        with pytest.raises(UserError):
            RemoteTeacher.connect(url, token="s3cret", patience=QUICK)
        assert sum("not encrypted" in line for line in told) == times, url
        assert not any("s3cret" in line for line in told)


def no_connection(*_: Any) -> None:
    raise UserError("stop here.")


def test_this_machine_and_others() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]")))
    others = ("0.0.0.0", "::", "", "0", "192.168.0.1", "localhost.example.org", "127.0.0.1.example.org")
    assert not any(map(is_loopback, others))


def test_an_endpoint_folder(tmp_path: Path) -> None:
    from teacher_sampler.importers.registry import ImportRequest
    from teacher_sampler.remote.client import load_endpoint
    from teacher_sampler.remote.importing import import_http

    cpu = torch.device("cpu")
    with misbehaving(always(answer(BODY))) as (address, _):
        imported = import_http(ImportRequest(address + "/"))
        assert imported.write is not None
        digest = imported.write(tmp_path)
        teacher = RemoteTeacher.connect(address, patience=QUICK)
        assert (imported.architecture, imported.arguments) == ("http", {"served": "counting", "sampling": {}})
        assert digest == teacher.digest
        card = teacher.card
        loaded = load_endpoint(tmp_path, card, imported.label_space, cpu)
        assert np.array_equal(quantise(loaded.generate(None, LABELS, KEYS, 0)).numpy(), LEVELS)
        changes: dict[str, Any] = {"source_digest": "d" * 64, "resolution_px": 16, "latent": {"dimension": 3}}
        for name, value in changes.items():
            other = card.__class__(**{**card.__dict__, name: value})
            with pytest.raises(UserError, match="another teacher"):
                load_endpoint(tmp_path, other, imported.label_space, cpu)
        for broken in ("", "[]", '{"url": 5}', '{"url": "file:///etc/passwd"}'):
            (tmp_path / "endpoint.json").write_text(broken)
            with pytest.raises(UserError):
                load_endpoint(tmp_path, card, imported.label_space, cpu)
        (tmp_path / "endpoint.json").unlink()
        with pytest.raises(UserError, match="missing"):
            load_endpoint(tmp_path, card, imported.label_space, cpu)
        with pytest.raises(UserError, match="truncation"):
            import_http(ImportRequest(address, truncation=0.5))
        with pytest.raises(UserError, match="no address"):
            import_http(ImportRequest("some/folder"))


def test_trailers_without_end() -> None:
    """After the last chunk; they are read within one call, so that only a hang-up ends it."""
    begun = head(200, {**HEADERS, "Transfer-Encoding": "chunked"}) + b"0\r\n"
    misbehaviour = misbehaving(endless(begun, b"X: y\r\n"))
    with misbehaviour as (address, _), no_endless_wait(), pytest.raises(UserError, match="slowly"):
        ask(address)

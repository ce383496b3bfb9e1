"""The service, over real connections: what it answers, what it refuses, and that nothing brings it down."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layers.pixels import quantise
from runtime.errors import UserError
from teacher_sampler.remote import wire
from teacher_sampler.remote.client import RemoteTeacher
from teacher_sampler.remote.service import ServiceSettings, create_app
from tests.support.teacher_service import DIGEST, QUICK, keys_of, no_endless_wait, running_service
from tests.support.tiny_sampling import ANGLES, CLASSES, CountingTeacher

MOST = 8
GOOD = {"seed": 0, "labels": [0, 1], "candidates": [0, 5]}
PATIENT = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class AngleTeacher(CountingTeacher):
    """Labels are values; the images are all black."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__(resolution_px=8, channels=1)
        self.label_space = replace(ANGLES, dimension=dimension)
        self.card = replace(self.card, label_space=self.label_space.to_json())

    def generate(self, latents: Any, labels: np.ndarray, keys: np.ndarray, seed: int = 0) -> torch.Tensor:
        return torch.full((len(labels), 1, 8, 8), -1.0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_service(CountingTeacher(8, 1), max_batch=MOST) as found:
        yield found


@pytest.fixture(scope="module")
def angle_address() -> Iterator[str]:
    with running_service(AngleTeacher(), max_batch=MOST) as found:
        yield found


def send(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    method = "GET" if data is None else "POST"
    answer = urllib3.request(method, address + path, body=data, headers=headers, retries=False, timeout=10)
    return answer.status, answer.data, answer.headers


def refusal(answer: tuple[int, bytes, Any]) -> str:
    """The sentence of an error; it holds no part of a program."""
    sentence = json.loads(answer[1])["error"]
    assert sentence.endswith(".")
    assert not re.search(r"Traceback|File \"|\.py", sentence)
    return sentence


def alive(address: str) -> None:
    assert send(address, "/health")[:2] == (200, b'{"ok":true,"version":1}')


def test_images_and_headers(address: str) -> None:
    status, body, headers = send(address, "/images", GOOD)
    assert status == 200
    assert headers[wire.TEACHER_DIGEST] == DIGEST
    assert headers[wire.CONTENT_SHA256] == wire.sha256(body)
    assert headers[wire.LATENTS_SHA256] == "none"
    assert headers["Content-Type"] == "application/octet-stream"
    assert "server" not in headers
    images = wire.decode_images(body, (2, 1, 8, 8))
    assert np.array_equal(images.numpy(), CountingTeacher(8, 1).levels(np.array([0, 1]), np.array([0, 5])))


def test_unknown_paths_and_methods(address: str) -> None:
    for path in ("/", "/weights", "/card/x", "/docs", "/openapi.json", "/redoc", "/weights.safetensors", "/../c.json"):
        answer = send(address, path)
        assert answer[0] == 404, path
        refusal(answer)
    assert send(address, "/images")[0] == 405
    assert send(address, "/card", {})[0] == 405
    alive(address)


BAD_BODIES: list[tuple[Any, int]] = [
    (b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b"[" * 700, 400), (b'{"seed": NaN}', 400),
    (b'{"seed":0,"labels":[NaN],"candidates":[0]}', 400), (b'{"seed":0,"labels":[1e999],"candidates":[0]}', 400),
    ([], 422), (3, 422), ({}, 422), ({**GOOD, "weights": 1}, 422), ({"seed": 0, "labels": [0]}, 422),
    ({**GOOD, "seed": -1}, 422), ({**GOOD, "seed": 1 << 63}, 422), ({**GOOD, "seed": 1.0}, 422),
    ({**GOOD, "seed": True}, 422), ({**GOOD, "seed": None}, 422), ({**GOOD, "labels": []}, 422),
    ({**GOOD, "labels": "01"}, 422), ({**GOOD, "labels": {"0": 1}}, 422), ({**GOOD, "labels": [0, 3]}, 422),
    ({**GOOD, "labels": [0, -1]}, 422), ({**GOOD, "labels": [0, 0.5]}, 422), ({**GOOD, "labels": [0, True]}, 422),
    ({**GOOD, "labels": [0, 10**200]}, 400), ({**GOOD, "labels": [[0], [1]]}, 422), ({**GOOD, "labels": [0]}, 422),
    ({**GOOD, "candidates": [0, 1 << 62]}, 422), ({**GOOD, "candidates": [-1, 0]}, 422),
    ({**GOOD, "candidates": [0, 10**300]}, 400), ({**GOOD, "candidates": [0, "1"]}, 422),
    ({"seed": 0, "labels": [0] * 9, "candidates": [0] * 9}, 413), ({**GOOD, "seed": "x" * 2000}, 413),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
def test_bad_requests_are_told_apart(address: str, body: Any, status: int) -> None:
    answer = send(address, "/images", body)
    assert answer[0] == status, answer
    refusal(answer)
    assert send(address, "/images", GOOD)[0] == 200


@pytest.mark.parametrize("labels", [[91.0], ["1"], [None], [True], [[1.0]], [10**400], [1e308]])
def test_values_outside_the_label_space(angle_address: str, labels: Any) -> None:
    asked = {"/images": {"seed": 0, "labels": labels, "candidates": [0]}, "/candidates": {"labels": labels}}
    for path, body in asked.items():
        answer = send(angle_address, path, body)
        assert answer[0] == (400 if labels == [10**400] else 422)  # no number that a reader of JSON has to know
        refusal(answer)
    assert send(angle_address, "/images", {"seed": 0, "labels": [-0.0], "candidates": [0]})[0] == 200


def test_vector_labels() -> None:
    with running_service(AngleTeacher(2), max_batch=MOST) as address:
        good = {"seed": 0, "labels": [[1.0, 2.0]] * MOST, "candidates": list(range(MOST))}
        assert send(address, "/images", good)[0] == 200
        for labels in ([1.0], [[1.0]], [[1.0, 2.0, 3.0]], [[1.0, "2"]], [[1.0, 91.0]]):
            assert send(address, "/images", {"seed": 0, "labels": labels, "candidates": [0]})[0] == 422


@PATIENT
@given(body=st.one_of(st.binary(max_size=400), JSON, st.fixed_dictionaries(dict.fromkeys(GOOD, JSON))))
def test_fuzzed_bodies(address: str, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    for path in ("/images", "/candidates"):
        answer = send(address, path, data)
        assert 400 <= answer[0] < 500 or (answer[0] == 200 and path == "/candidates"), answer
        if answer[0] != 200:
            refusal(answer)
    alive(address)


@PATIENT
@given(junk=st.binary(min_size=1, max_size=300), begun=st.sampled_from([b"", b"POST /images HTTP/1.1\r\n", b"GET /"]))
def test_bytes_that_are_no_http(address: str, junk: bytes, begun: bytes) -> None:
    place = address.removeprefix("http://").split(":")
    with socket.create_connection((place[0], int(place[1])), timeout=10) as raw:
        raw.sendall(begun + junk + b"\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(4096)
    assert not answer or re.match(rb"HTTP/1\.1 (4\d\d|200) ", answer), answer
    alive(address)


@pytest.mark.parametrize("declared", [True, False])
def test_a_giant_request_is_refused_before_it_is_read(address: str, declared: bool) -> None:
    place = address.removeprefix("http://").split(":")
    length = "Content-Length: 100000000000" if declared else "Transfer-Encoding: chunked"
    with no_endless_wait(), socket.create_connection((place[0], int(place[1])), timeout=10) as raw:
        raw.sendall(f"POST /images HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        if not declared:
            raw.sendall(b"1000\r\n" + b"[" * 4096 + b"\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    alive(address)


def test_a_body_that_does_not_come() -> None:
    with running_service(CountingTeacher(8, 1), body_s=0.3) as address:
        place = address.removeprefix("http://").split(":")
        with no_endless_wait(), socket.create_connection((place[0], int(place[1])), timeout=10) as raw:
            raw.sendall(b"POST /images HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            assert raw.recv(4096).startswith(b"HTTP/1.1 408 ")
        alive(address)


def test_only_the_token_lets_in() -> None:
    with running_service(CountingTeacher(8, 1), token="s3cret") as address:
        for wrong in ("", "Bearer", "Bearer wrong", "s3cret", "Bearer s3cret2", "Basic s3cret", "Bearer s3cre"):
            for path, body in (("/card", None), ("/images", GOOD), ("/candidates", {"labels": [0]})):
                answer = send(address, path, body, **({"Authorization": wrong} if wrong else {}))
                assert answer[0] == 401
                assert answer[2]["WWW-Authenticate"] == "Bearer"
                assert "s3cret" not in refusal(answer)
                assert wire.TEACHER_DIGEST not in answer[2]
        # Without the token nothing is told of a body, however wrong it is.
        assert send(address, "/images", b"{" * 100_000)[0] == 401
        alive(address)
        assert send(address, "/images", GOOD, Authorization="Bearer s3cret")[0] == 200
        assert send(address, "/card", None, Authorization="Bearer s3cret")[0] == 200


def test_failures_of_the_teacher_are_sentences() -> None:
    class Failing(CountingTeacher):
        def generate(self, latents: Any, labels: np.ndarray, keys: np.ndarray, seed: int = 0) -> torch.Tensor:
            if seed == 1:
                raise RuntimeError("secret /home/me/weights")
            images = super().generate(latents, labels, keys, seed)
            if seed == 2:
                images[0, 0, 0, 0] = torch.nan
            return images[:, :, :-1] if seed == 3 else images

    with running_service(Failing(8, 1)) as address:
        for seed, told in ((1, "messages"), (2, "not numbers"), (3, "shape")):
            answer = send(address, "/images", {**GOOD, "seed": seed})
            assert answer[0] == 500
            assert told in refusal(answer)
            assert b"secret" not in answer[1]
        assert send(address, "/images", GOOD)[0] == 200


def test_finite_teachers_say_how_many() -> None:
    class Finite(CountingTeacher):
        def candidates(self, labels: np.ndarray) -> np.ndarray:
            return np.array([4, 0, 6])[labels]

    with running_service(Finite(8, 1), max_batch=2) as address:
        remote = RemoteTeacher.connect(address, patience=QUICK)
        assert remote.candidates(np.array([2, 1, 0, 2])).tolist() == [6, 0, 4, 6]
        answer = send(address, "/images", {"seed": 0, "labels": [0, 2], "candidates": [3, 6]})
        assert answer[0] == 422
        assert "label 2 has only 6" in refusal(answer)
    with running_service(CountingTeacher(8, 1)) as address:
        assert RemoteTeacher.connect(address, patience=QUICK).candidates(np.array([0])) is None


def test_another_teacher_at_the_same_address() -> None:
    labels = np.array([0, 1])
    with running_service(CountingTeacher(8, 1)) as address:
        remote = RemoteTeacher.connect(address, patience=QUICK)
        remote.generate(None, labels, keys_of(labels), 0)
    port = int(address.rsplit(":", 1)[1])
    with running_service(CountingTeacher(8, 1), "f" * 64, port), pytest.raises(UserError, match="another teacher"):
        remote.generate(None, labels, keys_of(labels), 0)
    with running_service(CountingTeacher(8, 1), port=port):
        remote.generate(None, labels, keys_of(labels), 0)


def test_a_service_may_be_served_again() -> None:
    labels = np.arange(3)
    with running_service(CountingTeacher(8, 1)) as inner:
        remote = RemoteTeacher.connect(inner, patience=QUICK)
        with running_service(remote, remote.digest) as outer:
            again = RemoteTeacher.connect(outer, patience=QUICK)
            images = quantise(again.generate(None, labels, keys_of(labels, 7), 0))
    assert (again.digest, again.card) == (remote.digest, remote.card)
    assert np.array_equal(images.numpy(), CountingTeacher(8, 1).levels(labels, np.arange(7, 10)))


def test_so_many_at_once_under_the_samplers_numerics() -> None:
    seen, counted, meeting = [], threading.Lock(), threading.Barrier(2, timeout=10)

    class Watching(CountingTeacher):
        at_work = 0

        def generate(self, latents: Any, labels: np.ndarray, keys: np.ndarray, seed: int = 0) -> torch.Tensor:
            with counted:
                Watching.at_work += 1
                most = Watching.at_work
            meeting.wait()
            time.sleep(0.02)
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled(),
                         torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic, most))  # fmt: skip
            with counted:
                Watching.at_work -= 1
            return super().generate(latents, labels, keys, seed)

    torch.set_num_threads(2)
    try:
        with running_service(Watching(8, 1), workers=2) as address:
            clients = [threading.Thread(target=send, args=(address, "/images", GOOD)) for _ in range(6)]
            for client in clients:
                client.start()
            for client in clients:
                client.join(30)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert len(seen) == 6
    assert {entry[:4] for entry in seen} == {(1, True, "highest", True)}
    assert max(entry[4] for entry in seen) == 2


def test_cards_that_do_not_fit_their_teacher_are_not_served() -> None:
    liar = CountingTeacher(8, 1)
    liar.card = replace(liar.card, latent={"distribution": "normal", "dimension": 4})
    with pytest.raises(UserError, match="latents"):
        create_app(liar, DIGEST, ServiceSettings())
    liar.card = replace(liar.card, latent={}, licence="two\nlines")
    with pytest.raises(UserError, match="licence"):
        create_app(liar, DIGEST, ServiceSettings())


def test_classes_and_keys_of_the_fixture() -> None:
    """The request that the tests send is one that the client would send."""
    labels = np.array(GOOD["labels"])
    keys = keys_of(labels)
    keys[:, 1] = GOOD["candidates"]
    asked = wire.ImagesRequest(0, labels, keys[:, 1])
    assert json.loads(wire.encode_images_request(asked)) == GOOD
    assert CLASSES.width == 3

"""What goes over the wire comes out as it went in, and nothing else gets in."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from image_data.labels import ContinuousLabels
from interfaces import LabelSpace
from layers.pixels import quantise
from teacher_sampler.remote import wire
from teacher_sampler.remote.card import decode_card, encode_card
from teacher_sampler.remote.wire import AnswerError, ImagesRequest, RequestError
from teacher_sampler.sampling.settings import SamplerSettings
from tests.support.tiny_sampling import ANGLES, CLASSES, CountingTeacher

VECTORS = ContinuousLabels(-1.0, 1.0, dimension=3)
NUMBERS = st.integers(0, wire.CANDIDATES_END - 1)
VALUES: dict[str, tuple[LabelSpace, Any]] = {
    "classes": (CLASSES, st.integers(0, 2)),
    "values": (ANGLES, st.floats(-90.0, 90.0)),
    "vectors": (VECTORS, st.tuples(*[st.floats(-1.0, 1.0)] * 3)),
}


def test_every_level_survives() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    pixels = wire.levels_to_pixels(levels)
    assert pixels.dtype == torch.float32
    assert torch.equal(quantise(pixels), levels)
    assert (pixels[0], pixels[255]) == (-1.0, 1.0)


@pytest.mark.parametrize("kind", sorted(VALUES))
@given(data=st.data(), seed=st.integers(0, wire.LARGEST_SEED))
def test_requests_come_out_bit_for_bit(kind: str, data: st.DataObject, seed: int) -> None:
    space, values = VALUES[kind]
    rows = data.draw(st.lists(st.tuples(values, NUMBERS), min_size=1, max_size=20))
    labels = np.array([row[0] for row in rows], dtype=np.int64 if kind == "classes" else np.float64)
    asked = ImagesRequest(seed, labels, np.array([row[1] for row in rows], dtype=np.int64))
    body = wire.encode_images_request(asked)
    assert len(body) <= wire.request_bytes(space, len(rows))
    found = wire.decode_images_request(body, space, len(rows))
    assert found.seed == seed
    assert found.labels.dtype == labels.dtype
    assert found.labels.tobytes() == labels.tobytes()
    assert np.array_equal(found.candidates, asked.candidates)
    assert found.candidates.dtype == np.int64
    again = wire.decode_labels_request(wire.encode_labels_request(labels), space, len(rows))
    assert again.tobytes() == labels.tobytes()
    with pytest.raises(RequestError) as refused:
        wire.decode_images_request(body, space, len(rows) - 1)
    assert refused.value.status == 413


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"seed":' * 100_000, b"9" * 100_000])
def test_requests_that_would_exhaust_a_parser(body: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        wire.decode_images_request(body, CLASSES, 10**6)
    assert refused.value.status == 400


@given(shape=st.tuples(*[st.integers(1, 9)] * 4), seed=st.integers(0, 99), wide=st.booleans())
def test_images_come_out_bit_for_bit(shape: tuple[int, ...], seed: int, wide: bool) -> None:
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if wide:
        images = images.contiguous(memory_format=torch.channels_last)
    data = wire.encode_images(images)
    assert len(data) <= wire.answer_bytes(shape)
    found = wire.decode_images(data, shape)
    assert torch.equal(found, images)
    found.add_(1)  # it is memory of its own
    with pytest.raises(AnswerError, match="shape"):
        wire.decode_images(data, (shape[0] + 1, *shape[1:]))


@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_images(data: bytes) -> None:
    with pytest.raises(AnswerError):
        wire.decode_images(data, (2, 1, 4, 4))


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.bool_])
def test_images_of_another_type(dtype: Any) -> None:
    with pytest.raises(AnswerError, match="uint8"):
        wire.decode_images(save({"images": np.zeros((2, 1, 4, 4), dtype)}), (2, 1, 4, 4))


def test_more_tensors_than_images() -> None:
    both = {name: np.zeros((2, 1, 4, 4), np.uint8) for name in ("images", "weights")}
    with pytest.raises(AnswerError, match="2 tensors"):
        wire.decode_images(save(both), (2, 1, 4, 4))


@given(counts=st.one_of(st.none(), st.lists(NUMBERS, min_size=1, max_size=9)))
def test_counts_come_out_as_they_went_in(counts: list[int] | None) -> None:
    array = None if counts is None else np.array(counts, dtype=np.int64)
    found = wire.decode_counts(wire.encode_counts(array), 0 if counts is None else len(counts))
    assert (found is None) == (counts is None)
    assert found is None or found.tolist() == counts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"candidates": 3}', '{"candidates": [1.5]}', '{"candidates": [-1]}'])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(AnswerError):
        wire.decode_counts(text.encode(), 1)


def card_json(**changes: Any) -> bytes:
    found = json.loads(encode_card(CountingTeacher(), "ab" * 32, 64, True, SamplerSettings()))
    return json.dumps({**found, **changes}).encode()


def test_the_card_tells_what_is_needed_and_no_more() -> None:
    teacher = CountingTeacher()
    teacher.card = replace(
        teacher.card,
        arguments={"folder": "/home/me/secret", "noise_mode": "const"},
        trained_on={"name": "/home/me/data", "standing_statistics": {"batches": 4}},
        measured_quality={"fid": 3.5, "from": "/home/me/report"},
        truncation={"std": 0.5},
        latent={"distribution": "normal", "dimension": 7},
        licence="MIT",
    )
    data = encode_card(teacher, "ab" * 32, 64, False, SamplerSettings())
    assert b"/home" not in data
    served = decode_card(data)
    assert served.card.architecture == "http"
    sampling = {"noise_mode": "const", "standing_batches": 4}
    assert served.card.arguments == {"served": "counting", "sampling": sampling}
    assert (served.digest, served.max_batch, served.endless) == ("ab" * 32, 64, False)
    assert served.numerics == {"threads": 1, "tf32": False, "torch": torch.__version__, "device": "cpu"}
    kept = ("resolution_px", "channels", "label_space", "latent", "truncation", "licence")
    assert {name: getattr(served.card, name) for name in kept} == {name: getattr(teacher.card, name) for name in kept}
    assert served.card.measured_quality == {"fid": 3.5}


WRONG_CARDS: dict[str, Any] = {
    "resolution_px": [0, 10**9, "16", 16.0, True, None],
    "channels": [0, 1000, None],
    "max_batch": [0, -1, 10**12, None],
    "digest": ["", "xyz", "../../etc", "AB" * 32, 5, None],
    "endless": ["yes", None],
    "format_version": [2, None],
    "label_space": [
        None, [], {}, {"kind": "classes", "names": []}, {"kind": "classes", "names": [1, 2]},
        {"kind": "classes", "names": ["\x1b[2J"]}, {"kind": "classes", "names": "abc"},
        {"kind": "continuous", "low": 1, "high": 0}, {"kind": "continuous", "low": 0, "high": "1"},
        {"kind": "continuous", "low": 0, "high": 1, "dimension": 10**9}, {"kind": "other", "low": 0, "high": 1},
        {"kind": "continuous", "low": 0, "high": 1, "surplus": 1},
    ],
    "latent": [None, {"distribution": "uniform", "dimension": 3}, {"distribution": "normal"},
               {"distribution": "normal", "dimension": 10**12}, {"distribution": "normal", "dimension": 3, "std": -1}],
    "truncation": [None, {"std": 0}, {"std": "x"}, {"other": 1}],
    "architecture": [None, 5, "a\nb", "x" * 2000],
    "allowed_augmentations": [None, [5], "flip"],
    "measured_quality": [None, {"fid": "low"}],
    "numerics": [None, {"threads": []}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG_CARDS for value in WRONG_CARDS[name]])
def test_cards_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(AnswerError, match="its card is not"):
        decode_card(card_json(**{name: value}))


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b'{"format_version": 1}'])
def test_bytes_that_are_no_card(data: bytes) -> None:
    with pytest.raises(AnswerError, match="its card"):
        decode_card(data)
    decode_card(card_json())


def test_infinite_numbers_in_a_card() -> None:
    for text in ("NaN", "Infinity", "1e999"):
        data = card_json(truncation={"std": "HERE"}).replace(b'"HERE"', text.encode())
        with pytest.raises(AnswerError, match="its card is no JSON text"):
            decode_card(data)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut", "tab\t"])
def test_tokens_that_fit_no_header(token: str) -> None:
    assert not wire.valid_token(token)
    assert wire.valid_token("s3cret-_.~+/=")

"""A teacher behind an address.  Its images are a pure function of (seed, label, k), so a sampler may ask again at will.

The latents are worked out here, from the service's card, and every answer proves that the service used the same ones:
students train on them.  What comes back is believed only where its size, type, shape and digests fit the request.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from image_data.labels import label_space_from_json, labels_differ
from interfaces import LabelSpace, TeacherCard
from runtime.errors import UserError
from runtime.safe_files import read_sealed_json, write_sealed_json
from runtime.seeds import label_bits
from teacher_sampler.black_box.registry import BLACK_BOXES
from teacher_sampler.remote import wire
from teacher_sampler.remote.card import ARCHITECTURE, ServedCard, decode_card
from teacher_sampler.remote.transport import Patience, Reply, Transport
from teacher_sampler.remote.wire import AnswerError
from training.generator_folder import card_latents

ENDPOINT_FILE = "endpoint.json"
_REMEDY = "import the teacher again"
_COUNTS_BYTES = 32  # of one number in an answer of /candidates


class RemoteTeacher:
    """The Teacher interface over a service.  `digest` is the identity of the teacher that it serves."""

    def __init__(self, transport: Transport, served: ServedCard) -> None:
        self._transport, self._served = transport, served
        self.url = transport.url
        self.card, self.label_space, self.digest = served.card, served.label_space, served.digest
        self.device = torch.device("cpu")
        self._class_counts: np.ndarray | None = None

    @staticmethod
    def connect(url: str, token: str | None = None, patience: Patience | None = None) -> RemoteTeacher:
        """Ask the service for its card.  The token is by default that of RETORT_TEACHER_TOKEN, where it is set.

        UserError naming the address: no service, another kind of service, a wrong token, a card that makes no sense.
        """
        token = os.environ.get(wire.TOKEN_VARIABLE) or None if token is None else token
        if token is not None and not wire.valid_token(token):
            raise UserError(f"{wire.TOKEN_VARIABLE} holds spaces or special characters; set it to the service's token.")
        transport = Transport(url, token, patience or Patience())
        return RemoteTeacher(transport, transport.ask(wire.CARD_PATH, None, wire.CARD_BYTES, _read_card))

    def latents(self, keys: np.ndarray, seed: int) -> torch.Tensor | None:
        """Worked out from the card; None for a teacher without latents."""
        return card_latents(self.card, keys, seed) if self.card.latent else None

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """float32 N x C x H x W, on uint8 levels.  `latents` must be those of (keys, seed): only keys are sent."""
        shape = (len(keys), self.card.channels, self.card.resolution_px, self.card.resolution_px)
        self._check_request(labels, keys, wire.answer_bytes(shape))
        wanted = wire.latents_sha256(self.latents(keys, seed) if latents is None else latents)

        def read(reply: Reply) -> torch.Tensor:
            self._check_teacher(reply)
            images = wire.decode_images(reply.body, shape)
            if reply.headers.get(wire.LATENTS_SHA256) != wanted:
                if wanted != wire.latents_sha256(self.latents(keys, seed)):
                    raise ValueError("a remote teacher takes no latents but those of the keys")
                raise AnswerError("it used other latents than its card describes")
            return wire.levels_to_pixels(images)

        body = wire.encode_images_request(wire.ImagesRequest(seed, labels, keys[:, 1]))
        return self._transport.ask(wire.IMAGES_PATH, body, wire.answer_bytes(shape), read)

    def candidates(self, labels: np.ndarray) -> np.ndarray | None:
        """int64 N, or None where candidates are endless.  Classes are asked for once."""
        if self._served.endless:
            return None
        if self.label_space.kind == "continuous":
            return self._ask_counts(labels)
        if self._class_counts is None:
            self._class_counts = self._ask_counts(np.arange(self.label_space.width))
        return self._class_counts[labels]

    def _ask_counts(self, labels: np.ndarray) -> np.ndarray:
        batches = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(labels), self._served.max_batch):
            part = labels[start : start + self._served.max_batch]

            def read(reply: Reply, count: int = len(part)) -> np.ndarray:
                self._check_teacher(reply)
                counts = wire.decode_counts(reply.body, count)
                if counts is None:
                    raise AnswerError("it knows no number of candidates, against its card")
                return counts

            body = wire.encode_labels_request(part)
            batches.append(self._transport.ask(wire.CANDIDATES_PATH, body, 256 + _COUNTS_BYTES * len(part), read))
        return np.concatenate(batches)

    def _check_request(self, labels: np.ndarray, keys: np.ndarray, answer_bytes: int) -> None:
        if len(keys) > self._served.max_batch:
            raise UserError(
                f"{self.url} makes at most {self._served.max_batch} images at once, and {len(keys)} are asked for; "
                f"give --block-size {self._served.max_batch} or less."
            )
        if answer_bytes > wire.LARGEST_ANSWER:
            raise UserError(
                f"{self.url}: {len(keys)} images would be {answer_bytes >> 20} MiB; give a smaller --block-size."
            )
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise UserError(f"--dtype: {self.url} decides for itself how it computes; leave --dtype out.")
        if not np.array_equal(keys[:, 0], label_bits(labels)):
            raise ValueError("the keys are not those of the labels")

    def _check_teacher(self, reply: Reply) -> None:
        served_digest = reply.headers.get(wire.TEACHER_DIGEST, "")
        if served_digest != self.digest:
            raise UserError(
                f"{self.url} serves another teacher by now ({served_digest[:8]!r} in place of {self.digest[:8]!r}); "
                f"start serve-teacher with the same teacher again, or begin with this one in a new folder."
            )


def _read_card(reply: Reply) -> ServedCard:
    served = decode_card(reply.body)
    if reply.headers.get(wire.TEACHER_DIGEST) != served.digest:
        raise AnswerError("its card is that of another teacher than its headers name")
    return served


def write_endpoint(folder: Path, url: str) -> None:
    """The file of an `http` teacher's folder, beside its card.  It holds no token."""
    write_sealed_json(folder / ENDPOINT_FILE, {"url": url})


@BLACK_BOXES.register(ARCHITECTURE)
def load_endpoint(folder: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> RemoteTeacher:
    """The teacher behind the address in a folder's endpoint.json; UserError where it is not the one of the card."""
    path = Path(folder) / ENDPOINT_FILE
    try:
        url = read_sealed_json(path, _REMEDY)["url"]
        if not isinstance(url, str):
            raise TypeError("url is no text")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold the address of a service; {_REMEDY}.") from error
    teacher = RemoteTeacher.connect(url)
    served = teacher.card
    same = ("resolution_px", "channels", "latent", "truncation")
    wrong = [name for name in same if getattr(card, name) != getattr(served, name)]
    difference = labels_differ(label_space, label_space_from_json(served.label_space))
    if difference is not None:
        wrong.append(difference)
    if teacher.digest != card.source_digest or wrong:
        raise UserError(
            f"{url} serves another teacher than {folder} describes ({', '.join(wrong) or 'its digest differs'}); start "
            f"serve-teacher with that teacher again, or import this one."
        )
    teacher.card = card
    return teacher

"""A generator on disk and in memory: `card.json` + `weights.safetensors`, and the Teacher interface over them.

Teachers and student generators share this form, so whatever reads a teacher reads a student too.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interfaces import LabelSpace, TeacherCard
from runtime.atomic import make_folder
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.seeds import sample_normals
from runtime.tensor_files import read_tensors, write_tensors

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"


def card_latents(card: TeacherCard, keys: np.ndarray, seed: int) -> torch.Tensor:
    """Standard normals (times the truncation's std, where the card has one), named by (seed, label, k).

    float32 N x z on the CPU.  Whoever has the card has the latents: a teacher elsewhere need not send them.
    """
    normals = sample_normals(keys, seed, "latent", int(card.latent["dimension"]))
    return torch.from_numpy(normals * np.float32(card.truncation.get("std", 1.0)))


def sampling_notes(card: TeacherCard) -> dict[str, Any]:
    """How images come about, for manifests and services: noise mode and standing statistics, where there are any."""
    if "sampling" in card.arguments:  # a service's card says it of the teacher behind it
        return dict(card.arguments["sampling"])
    standing = card.trained_on.get("standing_statistics", {})
    found = {f"standing_{name}": value for name, value in standing.items()}
    return {"noise_mode": card.arguments["noise_mode"], **found} if "noise_mode" in card.arguments else found


class NetworkGenerator:
    """The Teacher interface over a local network `network(latents, encoded labels) -> images in [-1, 1]`.

    A network that adds noise of its own has `noise_numbers`, how many standard normals an image takes, and is called
    as `network(latents, encoded, noise)` with float32 N x noise_numbers.  One whose truncation is no scaling of the
    latents has `truncate(**card.truncation)`.
    """

    def __init__(self, card: TeacherCard, network: torch.nn.Module, label_space: LabelSpace, device: torch.device):
        self.card, self.label_space, self.device = card, label_space, device
        # Convolutions read maps whose channels lie side by side without rearranging them first.
        self.network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        truncate = getattr(network, "truncate", None)
        if card.truncation and truncate is not None:
            truncate(**card.truncation)
        elif set(card.truncation) - {"std"}:
            raise UserError(f"truncation {card.truncation} is none that {card.architecture} has; import it again.")

    def latents(self, keys: np.ndarray, seed: int) -> torch.Tensor:
        """float32 N x z; see `card_latents`."""
        return card_latents(self.card, keys, seed)

    @torch.inference_mode()
    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        if latents is None:
            raise ValueError("this generator needs latents")
        encoded = self.label_space.encode(labels).to(self.device)
        inputs = [latents.to(self.device), encoded]
        numbers = int(getattr(self.network, "noise_numbers", 0))
        if numbers:
            inputs.append(torch.from_numpy(sample_normals(keys, seed, "noise", numbers)).to(self.device))
        return self.network(*inputs).float()

    def candidates(self, labels: np.ndarray) -> None:
        """Without end."""
        return None


def save_generator(folder: Path, card: TeacherCard, network: torch.nn.Module) -> TeacherCard:
    """Write the weights, then the card (which marks the folder as complete).  Returns the card with its digest."""
    make_folder(folder)
    write_tensors(folder / WEIGHTS_FILE, network.state_dict())
    card = TeacherCard(**{**asdict(card), "source_digest": file_sha256(folder / WEIGHTS_FILE)})
    write_sealed_json(folder / CARD_FILE, asdict(card))
    return card


def read_card(folder: Path) -> TeacherCard:
    """The card of a generator's folder; a UserError where there is none or it is malformed."""
    path = Path(folder) / CARD_FILE
    try:
        found = read_sealed_json(path, "restore it or make the generator again")
        known = {field.name for field in fields(TeacherCard)}
        card = TeacherCard(**{name: value for name, value in found.items() if name in known})
    except MissingFile as error:
        raise UserError(f"{folder} holds no {CARD_FILE}; give the folder of a finished generator.") from error
    except TypeError as error:
        raise UserError(f"{path} is not a generator's card ({printable(error)}); make the generator again.") from error
    if not isinstance(card.truncation, dict):  # cards of the first days said None
        card = replace(card, truncation={})
    if card.format_version != 1:
        raise UserError(f"{path} has format version {card.format_version}; this program reads version 1.")
    return card


def load_weights(folder: Path, card: TeacherCard, network: torch.nn.Module) -> None:
    """Load the folder's weights into `network`; a UserError that names the file where they do not fit."""
    path = Path(folder) / WEIGHTS_FILE
    try:
        if file_sha256(path) != card.source_digest:
            raise UserError(f"{path} does not match the digest in its card; the file is damaged, restore it.")
        network.load_state_dict(read_tensors(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore it or make the generator again.") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path} does not hold the network of its card ({printable(error)}); restore it.") from error

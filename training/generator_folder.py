"""A generator on disk and in memory: its model folder, and the Teacher interface over its network.

Teachers and student generators share this form, so whatever reads a teacher reads a student too.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interfaces import LabelSpace, TeacherCard
from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.seeds import sample_normals
from training.model_folder import CARD_FILE, ModelFolder

FOLDER = ModelFolder("generator", "make the generator again")


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
    notes = {f"standing_{name}": value for name, value in standing.items()}
    return {"noise_mode": card.arguments["noise_mode"], **notes} if "noise_mode" in card.arguments else notes


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
        """Infinite."""
        return None


def save_generator(folder: Path, card: TeacherCard, network: torch.nn.Module) -> TeacherCard:
    """Write the weights, then the card (which marks the folder as complete).  Returns the card with its digest."""
    return TeacherCard(**FOLDER.write(folder, asdict(card), network.state_dict()))


def read_card(folder: Path) -> TeacherCard:
    """The card of a generator's folder; a UserError where there is none or it is malformed."""
    entries = FOLDER.read_card(folder)
    known = {field.name for field in fields(TeacherCard)}
    try:
        card = TeacherCard(**{name: value for name, value in entries.items() if name in known})
    except TypeError as error:
        path = Path(folder) / CARD_FILE
        raise UserError(f"{path} is not a generator's card ({printable(error)}); make the generator again.") from error
    return card if isinstance(card.truncation, dict) else replace(card, truncation={})  # the first cards said None


def load_weights(folder: Path, card: TeacherCard, network: torch.nn.Module) -> None:
    """Load the folder's weights into `network`; a UserError that names the file where they do not fit."""
    FOLDER.load_weights(folder, asdict(card), network)

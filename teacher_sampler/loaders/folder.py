"""A teacher from its own folder: `card.json` + `weights.safetensors`."""

from __future__ import annotations

from pathlib import Path

import torch

from image_data.labels import label_space_from_json
from layers.generator import CARD_FILE, NetworkGenerator, load_weights, read_card
from layers.spectral_norm import fold_spectral
from runtime.errors import UserError
from teacher_sampler.networks import TEACHERS


def load_teacher(folder: Path, device: torch.device) -> NetworkGenerator:
    """The teacher in `folder`, in eval mode, spectral norm folded into the weights.

    UserError naming the file where the folder, its card or its weights are missing, damaged or do not fit together.
    """
    folder = Path(folder)
    card = read_card(folder)
    try:
        label_space = label_space_from_json(card.label_space)
        network = TEACHERS.get(card.architecture)(card.arguments, label_space)
        dimension = int(card.latent["dimension"])
    except (UserError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder / CARD_FILE} does not describe a teacher ({error}); restore it.") from error
    if dimension != network.latent_dim:
        raise UserError(f"{folder / CARD_FILE}: latent dimension {dimension} is not that of its network; restore it.")
    load_weights(folder, card, network)
    return NetworkGenerator(card, fold_spectral(network.eval()), label_space, device)

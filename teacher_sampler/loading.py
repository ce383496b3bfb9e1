"""A teacher from its own folder (`card.json` and weights or files), or from the address of a teacher service."""

from __future__ import annotations

from pathlib import Path

import torch

from image_data.labels import label_space_from_json
from interfaces import LabelSpace, Teacher, TeacherCard
from layers.spectral_norm import fold_spectral
from runtime.errors import UserError
from teacher_sampler.black_box import programs, ready_images  # noqa: F401  (they register)
from teacher_sampler.black_box.registry import BLACK_BOXES
from teacher_sampler.networks import TEACHERS
from teacher_sampler.remote import client as http_client
from teacher_sampler.remote.address import is_url
from training.generator_folder import NetworkGenerator, load_weights, read_card
from training.model_folder import CARD_FILE


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_teacher(reference: str | Path, device: torch.device) -> Teacher:
    """The teacher in a folder, in eval mode with spectral norm folded into its weights, or the one behind a URL.

    UserError naming the file where the folder, its card or its files are missing, damaged or do not fit together.
    """
    if is_url(reference):
        return http_client.RemoteTeacher.connect(str(reference))
    folder = Path(reference)
    card = read_card(folder)
    try:
        label_space = label_space_from_json(card.label_space)
    except UserError as error:
        raise UserError(f"{folder / CARD_FILE} does not describe a teacher ({error}); restore it.") from error
    if card.architecture in BLACK_BOXES:
        return BLACK_BOXES.get(card.architecture)(folder, card, label_space, device)
    return _load_network(folder, card, label_space, device)


def _load_network(folder: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> NetworkGenerator:
    try:
        network = TEACHERS.get(card.architecture)(label_space, **card.arguments)
        dimension = int(card.latent["dimension"])
        if dimension != network.latent_dim:
            raise ValueError(f"latent dimension {dimension} is not that of its network")
    except (UserError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder / CARD_FILE} does not describe a teacher ({error}); restore it.") from error
    load_weights(folder, card, network)
    return NetworkGenerator(card, fold_spectral(network.eval()), label_space, device)

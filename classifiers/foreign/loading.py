"""The network of an imported predictor's folder: its program, or the known network of its card with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifiers.foreign.known_networks import KnownNetwork
from classifiers.foreign.networks import Convention, ForeignNetwork, ProgramCore
from classifiers.foreign.wording import of_a_classifier
from classifiers.networks.older import check_not_older
from image_data.labels import label_space_from_json
from interfaces import LabelSpace
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.safe_files.exported_program import PROGRAM_FILE, ExportedProgram
from runtime.safe_files.onnx_file import MODEL_FILE, OnnxProgram
from runtime.tensor_files import read_tensors
from training.model_folder import WEIGHTS_FILE

_FILES = {"onnx": MODEL_FILE, "torch-export": PROGRAM_FILE}


def load_foreign(folder: Path, card: Mapping[str, Any], device: torch.device) -> tuple[LabelSpace, ForeignNetwork]:
    """(labels, network in evaluation mode); UserError naming the file that is missing, damaged or not of the card."""
    path = folder / _FILES.get(str(card.get("architecture")), WEIGHTS_FILE)
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it or import the predictor again.")
    if file_sha256(path) != card.get("source_digest"):
        raise UserError(f"{path} does not match the digest in its card; the file is damaged, restore it.")
    try:
        space = label_space_from_json(card["label_space"])
        convention = Convention.from_json(card["arguments"])
        known = convention.outputs if convention.sources is None else len(convention.sources)
        if space.width != known or (space.kind == "classes") != (convention.output in ("logits", "probabilities")):
            raise ValueError("its labels are not those of its outputs")
        with of_a_classifier(path):
            core = _core(path, card, convention, device)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'card.json'} lacks or garbles an entry ({error}); import it again.") from error
    return space, ForeignNetwork(core, convention, space).eval()


def _core(path: Path, card: Mapping[str, Any], convention: Convention, device: torch.device) -> nn.Module:
    name = str(card["architecture"])
    if name == "onnx":
        return ProgramCore(OnnxProgram(path, device, output_dims=2), convention.channels_last)
    if name == "torch-export":
        return ProgramCore(ExportedProgram(path, device), convention.channels_last)
    network = KnownNetwork.of_card(
        card["arguments"], name, convention.channels, convention.resolution_px, convention.outputs
    )
    core = network.build()
    try:
        tensors = read_tensors(path)
        check_not_older(path, tensors, "import it again with import-predictor")
        core.load_state_dict(tensors)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path} does not hold the network of its card ({printable(error)}).") from error
    return core

"""A trained classifier on disk and in memory.

The same folder serves as student, as the teacher of a distillation, and as the predictor that measures teacher errors
for filtering.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from classifiers.networks import STUDENTS, build_student
from classifiers.networks.older import check_not_older
from image_data.labels import label_space_from_json
from interfaces import LabelSpace
from interfaces.method import Views
from layers.features import FeatureReader
from layers.heads import HEADS
from runtime.errors import UserError
from runtime.registry import Choice
from runtime.tensor_files import tensor_names
from training.model_folder import WEIGHTS_FILE, ModelFolder

FOLDER = ModelFolder("classifier", "train the classifier again", kind="classifier")
_BLOCK_ROWS = 256


class ClassifierPredictor:
    """The Predictor interface, and the features of the network where it has insides.

    Inference is fixed: evaluation mode, no augmentation, blocks of at most 256 images, no gradient, all on the device.
    Continuous predictions are clipped to the stated label range.
    """

    def __init__(self, card: dict[str, Any], network: nn.Module, label_space: LabelSpace, device: torch.device):
        self.card, self.label_space, self.device = card, label_space, device
        self.network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._outputs = self.reader()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 N x C logits, or encoded labels N x d in [0, 1], on the device."""
        return self.views(images, self._outputs).output

    def predictions(self, images: torch.Tensor) -> torch.Tensor:
        """float32 on the CPU: N x C logits, or N x d in the user's units."""
        output = self(images).cpu()
        if self.label_space.kind == "classes":
            return output
        values = np.asarray(self.label_space.decode(output), dtype=np.float32)
        return torch.from_numpy(values.reshape(len(images), self.label_space.width))

    @property
    def has_insides(self) -> bool:
        """Whether features can be read: not of an imported program."""
        return bool(getattr(self.network, "has_insides", True))

    def reader(self, features: Sequence[str] = ()) -> FeatureReader:
        """For `views`; UserError for a feature that the network does not have."""
        return FeatureReader(self.network, features, "teacher")

    @torch.no_grad()
    def views(self, images: torch.Tensor, reader: FeatureReader) -> Views:
        """Outputs and features of uint8 images N x C x H x W, on the device, as a method's teacher gives them."""
        check_shape(self.card, images.shape[1:], "the predictor", "the images given")
        blocks = [reader(block.to(self.device)) for block in images.split(_BLOCK_ROWS)]
        output = torch.cat([block.output for block in blocks])
        features = {name: torch.cat([block.features[name] for block in blocks]) for name in blocks[0].features}
        return Views(output if self.label_space.kind == "classes" else output.clamp(0.0, 1.0), features)


def check_shape(card: dict[str, Any], shape: Sequence[int], name: str, whose: str) -> None:
    """UserError where a predictor takes other images than those of `whose`, C x H x W."""
    if "resolution_px" not in card:
        return
    taken = (card["channels"], card["resolution_px"], card["resolution_px"])
    if tuple(shape) != taken:
        mine, theirs = (" x ".join(map(str, sides)) for sides in (taken, shape))
        remedy = f"import it again with --image-size {shape[1]} --image-channels {shape[0]}"
        if not card.get("foreign"):
            remedy = f"train one on such images (train-classifier --resolution {shape[1]})"
        raise UserError(f"{name} takes images of {mine}, not of {theirs} ({whose}); {remedy}.")


def read_classifier_card(folder: Path) -> dict[str, Any]:
    """The card of a classifier's folder; a UserError where there is none or it is malformed."""
    return FOLDER.read_card(folder)


def network_of(card: dict[str, Any]) -> Choice:
    """The network of a card, with its settings; older cards name its width alone."""
    settings = card["network"] if "network" in card else {"width": card["width"]}
    return STUDENTS.choose(str(card["architecture"]), dict(settings))


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_classifier(folder: Path, device: torch.device) -> ClassifierPredictor:
    """Read a finished folder; a UserError names the file that is missing, damaged or of another kind."""
    folder = Path(folder)
    card = FOLDER.read_card(folder)
    if card.get("foreign"):
        from classifiers.foreign.loading import load_foreign

        space, foreign = load_foreign(folder, card, device)
        return ClassifierPredictor(card, foreign, space, device)

    def build() -> nn.Module:
        shape = int(card["channels"]), int(card["resolution_px"])
        network = build_student(network_of(card), *shape, label_space_from_json(card["label_space"]))
        if "head" in card:
            network.head = HEADS.get(str(card["head"]["name"]))(**card["head"]["arguments"])
        return network

    try:
        network = FOLDER.load(folder, card, build)
    except UserError:
        if (path := folder / WEIGHTS_FILE).is_file():
            check_not_older(path, tensor_names(path), "train it again with train-classifier or distill")
        raise
    return ClassifierPredictor(card, network, label_space_from_json(card["label_space"]), device)

"""The InceptionV3 of the published FID, from a weights file that is there already; nothing is ever downloaded.

Protocol (that of pytorch-fid): grey images repeated to three channels, 0 .. 1, bilinear to 299 x 299 without
antialiasing, then -1 .. 1; features are the 2,048 of the last average pooling.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluation.blocks import FixedBlocks
from runtime.digests import file_sha256
from runtime.errors import UserError

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
_PUBLISHED_SHA256_HEAD = "6726825d"  # torch hub's convention: the name carries the head of the digest
_SIDE_PX = 299
EVALUATION_ROWS = 32


class Inception:
    """Features for FID.  Other weights than the published ones go by the name FD-inception, never FID."""

    feature_width = 2048

    def __init__(self, network: nn.Module, digest: str, device: torch.device, rows: int) -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.card: dict[str, Any] = {"architecture": "pytorch-fid InceptionV3", "digest": digest}
        self.metric_name = "FID" if digest.startswith(_PUBLISHED_SHA256_HEAD) else "FD-inception"
        self._blocks = FixedBlocks(self._forward, (None, None, None), device, rows)

    @property
    def protocol(self) -> dict[str, Any]:
        """What decides the features, for the record beside each score."""
        return {
            "feature_network": self.card["architecture"],
            "feature_network_digest": self.card["digest"],
            "feature_width": self.feature_width,
            "preprocessing": f"grey to RGB, uint8 / 255, bilinear {_SIDE_PX} px, no antialias, -1 to 1",
            "batch": self._blocks.rows,
            "dtype": "float32, moments in float64",
        }

    def features(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """uint8 N x C x H x W (C = 1 or 3) -> float32 N x 2048 on the CPU."""
        return self._blocks(images)

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255.0
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = nn.functional.interpolate(x, size=(_SIDE_PX, _SIDE_PX), mode="bilinear", align_corners=False)
        return self.network(2.0 * x - 1.0)


def find_weights(weights_file: Path | None = None) -> Path | None:
    """The given file, or the one that pytorch-fid left in torch hub's cache, or None."""
    if weights_file is not None:
        if not Path(weights_file).is_file():
            raise UserError(f"{weights_file} is not there; give the path of {WEIGHTS_NAME} or leave the option out.")
        return Path(weights_file)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    return cached if cached.is_file() else None


def load_inception(
    weights_file: Path | None = None, device: torch.device | None = None, rows: int = EVALUATION_ROWS
) -> Inception:
    """Build the network and load the weights (read with weights_only); UserError where there are none or others."""
    path = find_weights(weights_file)
    if path is None:
        raise UserError(f"no Inception weights: give the path of {WEIGHTS_NAME}, or use the judge's features.")
    network = build_network()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} does not hold the weights of FID's InceptionV3 ({first}); give another file."
        ) from error
    network.fc = nn.Identity()
    return Inception(network, file_sha256(path), device or torch.device("cpu"), rows)


def build_network() -> nn.Module:
    """torchvision's InceptionV3 with pytorch-fid's patched blocks, untrained; pytorch-fid's own builder downloads."""
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    network.Mixed_5b = FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = FIDInceptionE_1(1280)
    network.Mixed_7c = FIDInceptionE_2(2048)
    network.transform_input = False
    return network

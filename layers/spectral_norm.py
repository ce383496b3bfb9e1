"""Spectral normalisation, and its folding into plain weights for inference."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

Layer = TypeVar("Layer", bound=nn.Module)


def spectral(layer: Layer, enabled: bool = True) -> Layer:
    """Divide the layer's weight by its largest singular value, kept up to date by one power iteration for each
    forward pass in train mode (Miyato et al. 2018).  Returns the same layer; `enabled=False` leaves it as it is.
    """
    if enabled:
        parametrizations.spectral_norm(layer)
    return layer


def fold_spectral(module: nn.Module) -> nn.Module:
    """Replace every normalised weight in `module` by its present value, in place.

    In eval mode the outputs stay the same to the bit, and nothing is divided any more at each forward pass.  The
    state dict then has plain names (`conv.weight`).
    """
    was_training = module.training
    module.eval()  # reading a weight in train mode would move the power iteration on
    with torch.no_grad():
        for layer in list(module.modules()):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module.train(was_training)

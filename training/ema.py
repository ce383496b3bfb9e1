"""The EMA of a network over its training, and batch-norm statistics that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

RAMP_UP = 0.05  # the half-life is never longer than this part of the images seen (Karras et al. 2022, EDM)


class ExponentialMovingAverage:
    """`.module` is the EMA of the states that `update` was shown, with weight halved every `half_life_images`.

    Parameters and floating-point buffers (batch-norm statistics) are averaged.  Early in a run the half-life is
    shortened (`RAMP_UP`), so that a short run does not average over its own beginning.
    """

    def __init__(self, module: nn.Module, half_life_images: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.half_life_images = half_life_images
        self.images_seen = 0

    @torch.no_grad()
    def update(self, module: nn.Module, images: int) -> None:
        """Move towards `module`, which has been trained on `images` more images."""
        self.images_seen += images
        half_life = min(self.half_life_images, RAMP_UP * self.images_seen)
        keep = 0.5 ** (images / max(half_life, 1e-8))
        source = _state(module)
        averaged, towards = [], []
        for name, value in _state(self.module).items():
            # The vectors of spectral normalisation are copied: a mean of unit vectors is no unit vector.
            if value.is_floating_point() and not name.endswith(("._u", "._v")):
                averaged.append(value)
                towards.append(source[name])
            else:
                value.copy_(source[name])
        torch._foreach_lerp_(averaged, towards, 1.0 - keep)

    def state_dict(self) -> dict[str, Any]:
        """For `training.state`."""
        return {"images_seen": self.images_seen, **self.module.state_dict(prefix="module.")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images_seen = int(state["images_seen"])
        prefix = "module."
        self.module.load_state_dict(
            {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        )


def accumulate_standing_statistics(
    network: nn.Module,
    draw: Callable[[int], tuple[torch.Tensor, ...]],
    batches: int,
    *,
    settle: int = 8,
    biased: bool = False,
) -> None:
    """Give every batch norm in `network` the mean statistics over `batches` forward passes of `network(*draw(i))`.

    Averaged weights have never been run, so the batch-norm statistics of training do not belong to them (BigGAN's
    "standing statistics", Brock et al. 2019, appendix C).  `settle` passes before them bring the vectors of spectral
    normalisation up to the averaged weights.  Weights stay as they are; `draw` must be a pure function of i for the
    result to be one.  The network comes back in the mode in which it was.

    `biased`: variances as train mode divides by them (over n, where the running variance is over n - 1), so that with
    one batch eval mode gives that batch's train-mode images.
    """
    was_training = network.training
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.train()
    with torch.no_grad():
        for _ in range(settle):
            network(*draw(0))
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all passes
        counts: dict[nn.Module, int] = {}
        hooks = [norm.register_forward_pre_hook(lambda norm, x: counts.__setitem__(norm, _positions(x[0])))
                 for norm in norms]  # fmt: skip
        for index in range(batches):
            network(*draw(index))
        for hook in hooks:
            hook.remove()
        if biased:
            for layer, count in counts.items():
                layer.get_buffer("running_var").mul_((count - 1) / count)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


def _positions(x: torch.Tensor) -> int:
    """How many values of a channel a batch norm averages over."""
    return x.numel() // x.shape[1]


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}

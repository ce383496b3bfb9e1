"""Any timm model as a trunk: without its head, without pretrained weights, its early strides taken out.

timm's models are designed for 224 px and a total stride of 32; the earliest strides are set to 1 until the last map is
an eighth of the image wide (2x2 at 16, 4x4 at 32).  Where a model's strides sit on parallel paths (ResNets) that is not
possible: it is taken as it is, or refused below 2 px.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from layers.pointwise import with_safe_strides
from layers.trunks import TIMM_PREFIX
from runtime.errors import UserError

_SMALLEST_MAP_PX = 2
_TOTAL_STRIDE = 8


def timm_feature_paths(model: Any) -> dict[str, str]:
    """stem, stage1, ... -> module path by what timm knows of the model; {} where that is nothing."""
    known = getattr(model, "feature_info", [])
    paths = [str(entry["module"]) for entry in (known if isinstance(known, list) else known.info) if "module" in entry]
    modules = dict(model.named_modules())
    stems = [path for path in ("stem", "act1", "bn1") if path in modules]
    if paths and stems and paths[0] not in stems:
        paths = [stems[0], *paths]
    present = [path for path in paths if path in modules]
    return {f"stage{index}" if index else "stem": path for index, path in enumerate(present)}


class TimmTrunk(nn.Module):
    """A timm model without its head and without pretrained weights, its early strides taken out for small images."""

    def __init__(self, name: str, in_channels: int, resolution_px: int, width: float) -> None:
        super().__init__()
        if width != 1.0:
            raise UserError(
                f"{TIMM_PREFIX}{name} has its width in its name; leave the width at 1 or take another model."
            )
        import timm  # slow to import, and only these networks need it

        if not timm.is_model(name):
            raise UserError(f"timm knows no model {name!r}; `timm.list_models()` prints the names it has.")
        arguments: dict[str, Any] = {
            "pretrained": False,
            "num_classes": 0,
            "in_chans": in_channels,
            "global_pool": "avg",
        }
        self.model = with_safe_strides(timm.create_model(name, **arguments))
        map_px = _adapt_strides(self.model, in_channels, resolution_px, f"{TIMM_PREFIX}{name}")
        if map_px < _SMALLEST_MAP_PX:
            raise UserError(
                f"{TIMM_PREFIX}{name} shrinks {resolution_px} px images to {map_px} px and its strides cannot be "
                "taken out; use one of the MobileNet or EfficientNet family."
            )
        known = timm_feature_paths(self.model)
        self.feature_paths = {key: f"model.{path}" for key, path in known.items()}
        was_training = self.model.training
        with torch.no_grad():
            self.model.eval()
            self.feature_dim = int(self.model(torch.zeros(1, in_channels, resolution_px, resolution_px)).shape[1])
        self.model.train(was_training)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        return model.forward_features(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def _last_map_px(model: Any, in_channels: int, resolution_px: int, name: str) -> int:
    """Width of the last feature map, by running one black image in eval mode."""
    was_training = model.training
    try:
        with torch.no_grad():
            features = model.eval().forward_features(torch.zeros(1, in_channels, resolution_px, resolution_px))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{name} cannot take images of {resolution_px} px ({str(error).splitlines()[0]}); use another model."
        ) from error
    finally:
        model.train(was_training)
    if features.ndim != 4:
        raise UserError(f"{name} is not a convolutional network with a feature map; use another model.")
    return int(min(features.shape[2:]))


def _adapt_strides(model: Any, in_channels: int, resolution_px: int, name: str) -> int:
    """Set the earliest stride-2 convolutions to stride 1 until the last map is wide enough; returns its width.

    Only for the family with one path through its strides (`conv_stem` + `blocks`): elsewhere a shortcut would no
    longer match its block.
    """
    map_px = _last_map_px(model, in_channels, resolution_px, name)
    if not (hasattr(model, "conv_stem") and hasattr(model, "blocks")):
        return map_px
    strided = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    for layer in strided:
        if map_px * _TOTAL_STRIDE >= resolution_px:
            break
        layer.stride = (1, 1)
        map_px = _last_map_px(model, in_channels, resolution_px, name)
    return map_px

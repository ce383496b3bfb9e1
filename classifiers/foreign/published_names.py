"""Layers of published classifiers in the project's names: the trunks have the trainers' own, so that little changes.

Known are the names of Tian et al.'s trainer and of those that followed it: conv1, layer1.0.conv1, ..., fc; block0.0,
..., classifier; conv1.0, blocks.0.0.conv.0, ..., classifier.0.  A head of three layers is one of regression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Leaf = TypeVar("Leaf")
_HEADS = "_?fc|linear|classifier|head"
_LAST_LAYERS = re.compile(rf"(?:{_HEADS})(?:\.\d+)?\.weight")
_STEM = {"0": "conv1", "1": "bn1"}
_REGRESSION = re.compile(rf"(?:{_HEADS})\.([67])\.weight")  # after two hidden layers with norm and ReLU
_HIDDEN_PLACES = 6


def is_last_layer(name: str) -> bool:
    """Whether a tensor of this name is a weight of a head."""
    return _LAST_LAYERS.fullmatch(name) is not None


def own_names(leaves: Mapping[str, Leaf], family: str = "") -> dict[str, Leaf]:
    """The leaves as backbone.* and head.*; names without a counterpart get the prefix too, to be listed as surplus.

    family: of `layers.trunks`; ResNets of four stages stand in one list, or in block1 (with the stem) to block4, too.
    """
    plain = {_in_layers(name) if family == "resnet" else name: leaf for name, leaf in leaves.items()}
    last = [found for name in plain if (found := _REGRESSION.fullmatch(name))]
    first = int(last[-1][1]) - _HIDDEN_PLACES if last else 0  # 1 behind a dropout
    return {_own_name(name, first if last else None): leaf for name, leaf in plain.items()}


def _in_layers(name: str) -> str:
    """main.0, main.1, main.3, ..., or block1.0, block1.1, block1.3, block2, ... as conv1, bn1, layer1, layer2, ..."""
    first, _, rest = name.partition(".")
    place, _, inner = rest.partition(".")
    if first in ("main", "block1") and place in _STEM:
        return f"{_STEM[place]}.{inner}"
    if first == "main" and re.fullmatch(r"[3-6]", place):
        return f"layer{int(place) - 2}.{inner}"
    if first == "block1":
        return f"layer1.{inner}"
    return f"layer{first[-1]}.{rest}" if re.fullmatch(r"block[234]", first) else name


def _own_name(name: str, first: int | None) -> str:
    """first: place of the first layer of a regression head; None: the head is one layer."""
    if found := re.fullmatch(rf"(?:{_HEADS})(?:\.(\d\d?))?\.(\w+)", name):
        return f"head.{found[2]}" if first is None or found[1] is None else f"head.{int(found[1]) - first}.{found[2]}"
    if found := re.fullmatch(r"(.+)\.shortcut\.(.+)", name):
        return f"backbone.{found[1]}.downsample.{found[2]}"
    return f"backbone.{name}"

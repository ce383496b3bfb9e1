"""Layers of published classifiers in the project's names: the trunks have the trainers' own, so that little changes.

Known are the names of Tian et al.'s trainer and of those that followed it: conv1, layer1.0.conv1, ..., fc; block0.0,
..., classifier; conv1.0, blocks.0.0.conv.0, ..., classifier.0.  A head of three layers is one of regression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Leaf = TypeVar("Leaf")
_HEADS = "fc|linear|classifier|head"
_LAST_LAYERS = re.compile(rf"(?:{_HEADS})(?:\.\d+)?\.weight")
_REGRESSION = re.compile(rf"(?:{_HEADS})\.6\.weight")  # after two hidden layers with norm and ReLU


def is_last_layer(name: str) -> bool:
    """Whether a tensor of this name is a weight of a head."""
    return _LAST_LAYERS.fullmatch(name) is not None


def own_names(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The leaves as backbone.* and head.*; names without a counterpart get the prefix too, to be listed as surplus."""
    kept = r"\1" if any(_REGRESSION.fullmatch(name) for name in leaves) else ""
    rules = (
        (rf"(?:{_HEADS})(\.\d+)?\.(\w+)", rf"head{kept}.\2"),
        (r"(.+)\.shortcut\.(.+)", r"backbone.\1.downsample.\2"),
    )
    return {_own_name(name, rules): leaf for name, leaf in leaves.items()}


def _own_name(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return f"backbone.{name}"

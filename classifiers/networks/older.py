"""Weights of the ResNets and VGGs that earlier versions had under the names of today's published ones: refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runtime.errors import UserError

_LAYERS = frozenset({"backbone.stem.0.weight", "backbone.blocks.0.weight"})


def check_not_older(path: Path, names: Iterable[str], remedy: str) -> None:
    """UserError where the tensors of these names, from the file `path`, are of such a network."""
    if _LAYERS & set(names):
        raise UserError(
            f"{path} holds a network as an earlier version had it, and its name now means the published one; {remedy}."
        )

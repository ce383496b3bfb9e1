"""The registry of white-box losses and what each is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from runtime.registry import Registry


class MapLossOptions(Protocol):
    """The part of the settings that a loss may read."""

    @property
    def kernel_rows(self) -> str: ...

    @property
    def kernel_centred(self) -> bool: ...


MapLossFactory = Callable[[int, int, MapLossOptions], nn.Module]

WHITE_BOX_LOSSES: Registry[MapLossFactory] = Registry("white-box loss")

"""What the classifiers' networks may be told; free of torch, so that --help can show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from runtime.bounds import Bound, Width
from runtime.settings import setting


@dataclass(frozen=True)
class TrunkSettings:
    """Of networks whose channels can be scaled."""

    width: Width = setting(1.0, "Factor on the channel counts.")


@dataclass(frozen=True)
class TimmSettings:
    """Of timm's networks."""

    width: Annotated[float, AfterValidator(Bound(1, 1, why="a timm network has its width in its name"))] = setting(
        1.0, "Stays 1: a timm network has its width in its name."
    )


@dataclass(frozen=True)
class OneWidthSettings:
    """Of published networks whose channels are fixed."""

    width: Annotated[float, AfterValidator(Bound(1, 1, why="this network has one width"))] = setting(
        1.0, "Stays 1: this network has one width."
    )

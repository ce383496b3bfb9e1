"""Numbers with bounds, as types: the settings' fields, their flags and YAML keys are held to the same ones."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from runtime.errors import UserError

MOST = 10**9  # of anything that is counted
LARGEST_SEED = 2**63 - 1  # what a signed word of 64 bits holds


@dataclass(frozen=True)
class Bound:
    """Callable: gives the number back, or a ValueError that says what it must be.  `above`: low itself is too low."""

    low: float
    high: float = MOST
    above: bool = False
    below: bool = False
    why: str = ""

    def __call__(self, value: Any) -> Any:
        if text := self.problem(value):
            raise ValueError(f"it {text}")
        return value

    def problem(self, value: Any) -> str:
        """What is wrong with it; "" where nothing is.  None stands for an open setting."""
        if value is None:
            return ""
        if not math.isfinite(value):
            return "must be a finite number"
        why = f" ({self.why})" if self.why else ""
        if self.low == self.high != value:
            return f"must be {self.low:,}{why}"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above ' if self.above else ''}{self.low:,}{'' if self.above else ' or more'}{why}"
        if value > self.high or (self.below and value == self.high):
            return f"must be {'below ' if self.below else ''}{self.high:,}{'' if self.below else ' or less'}"
        return ""


Seed = Annotated[int, AfterValidator(Bound(0, LARGEST_SEED))]
Count = Annotated[int, AfterValidator(Bound(1))]
CountOrNone = Annotated[int, AfterValidator(Bound(0))]  # 0 leaves it out
BatchSize = Annotated[int, AfterValidator(Bound(2, 2**20, why="batch norm needs two images"))]
Channels = Annotated[int, AfterValidator(Bound(1, 2**14))]
ChannelsOrNone = Annotated[int, AfterValidator(Bound(0, 2**14))]
Positive = Annotated[float, AfterValidator(Bound(0, math.inf, above=True))]
NotNegative = Annotated[float, AfterValidator(Bound(0, math.inf))]
Share = Annotated[float, AfterValidator(Bound(0, 1))]
ShareBelowOne = Annotated[float, AfterValidator(Bound(0, 1, below=True))]
Risk = Annotated[float, AfterValidator(Bound(0, 0.5, above=True, below=True))]
InnerShare = Annotated[float, AfterValidator(Bound(0, 1, above=True, below=True))]
ShareAboveZero = Annotated[float, AfterValidator(Bound(0, 1, above=True))]
Width = Annotated[float, AfterValidator(Bound(0, 64, above=True))]  # a factor on channel counts


def bound_problems(settings: Any, between: str = " ") -> list[str]:
    """A text for each field of a settings dataclass outside the bounds or the choices of its type.

    between: what stands between name and value.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    problems = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        known = typing.get_args(hints[field.name])
        if typing.get_origin(hints[field.name]) is Literal and value not in known:
            problems.append(f"{field.name}{between}{value!r} must be {', '.join(known[:-1])} or {known[-1]}")
        for bound in _bounds(hints[field.name]):
            for one in value if isinstance(value, tuple) else (value,):
                if text := bound.problem(one):
                    problems.append(f"{field.name}{between}{one} {text}")
    return problems


def check_bounds(settings: Any, what: str) -> None:
    """Raise a UserError that lists `bound_problems`.  `what`: whose settings these are."""
    problems = [text.replace(" must", "; it must", 1) for text in bound_problems(settings, " is ")]
    if problems:
        raise UserError(f"{what}: {', '.join(problems)}.")


def _bounds(kind: Any) -> list[Bound]:
    own = [item.func for item in getattr(kind, "__metadata__", ()) if isinstance(item, AfterValidator)]
    inner = [bound for part in typing.get_args(kind) for bound in _bounds(part)]
    return [bound for bound in own if isinstance(bound, Bound)] + inner

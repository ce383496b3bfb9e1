"""Where work items run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Engine(Protocol):
    """`function` and the items are picklable; results come back in the order in which they finish."""

    workers: int

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]: ...

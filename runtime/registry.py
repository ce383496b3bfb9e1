"""Explicit registries: one decorator, duplicate names refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from runtime.errors import UserError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Named entries of one kind, e.g. all student networks."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator: `@STUDENTS.register("resnet20")`."""

        def enter(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> Entry:
        """The entry, or a UserError that lists the known names."""
        if name not in self._entries:
            raise UserError(f"{self.kind} {name!r} is unknown; known are {', '.join(sorted(self._entries))}.")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

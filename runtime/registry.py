"""Explicit registries: an entry is a name, what is called to build it, and its own settings.

    @GENERATORS.register("tinygan", settings=TinyGanSettings)
    class TinyGan(nn.Module): ...

    choice = GENERATORS.choose("tinygan", {"base_width": 8})
    network = GENERATORS.build(choice, resolution_px=16, ...)

An entry takes its settings as keyword arguments, after those that all entries of its registry take.  Who builds one
never names a setting of it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Generic, TypeVar, cast

from runtime.errors import UserError
from runtime.settings import NoSettings, fill

Entry = TypeVar("Entry")
FAMILY = ":NAME"  # ends the name of an entry that stands for many: it is called with the rest of the name first


@dataclass(frozen=True)
class Choice:
    """An entry by name, with all of its settings.  `Registry.choose` makes one."""

    name: str
    settings: Any

    def arguments(self) -> dict[str, Any]:
        """The settings as keyword arguments."""
        return {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}

    def to_json(self) -> dict[str, Any]:
        """As in YAML: {"name": "tinygan", "base_width": 8, ...}."""
        return {"name": self.name, **self.arguments()}

    def __str__(self) -> str:
        return self.name


@dataclass
class _Line(Generic[Entry]):
    """What a registry knows of one entry; `entry` is None until its module has been imported."""

    module: str | None
    settings: type | None
    only: str = ""
    entry: Entry | None = None


class Registry(Generic[Entry]):
    """Named entries of one kind, e.g. all student networks."""

    def __init__(self, kind: str, lines_in: Iterable[str] = ()) -> None:
        """lines_in: modules above this one that declare the entries; imported when the registry is first asked."""
        self.kind = kind
        self._declared: dict[str, _Line[Entry]] = {}
        self._to_read = [*lines_in]

    @property
    def _lines(self) -> dict[str, _Line[Entry]]:
        while self._to_read:
            importlib.import_module(self._to_read.pop())
        return self._declared

    def declare(self, name: str, module: str, settings: type | None = None, only: str = "") -> None:
        """The registry line of an entry whose `module` registers it, and is imported when the entry is first used.

        settings: given here where they lie in a module without torch, so that --help can show them at once.
        only: what else than building it from settings can be done with it, e.g. "loaded (import-teacher)".
        """
        if name in self._declared:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._declared[name] = _Line(module, settings, only)

    def register(self, name: str, settings: type | None = None, only: str = "") -> Callable[[Entry], Entry]:
        """Decorator: `@STUDENTS.register("resnet20", settings=TrunkSettings)`; without settings it has none."""

        def enter(entry: Entry) -> Entry:
            line = self._declared.setdefault(name, _Line(None, settings, only))
            if line.entry is not None or (settings and line.settings and settings is not line.settings):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            line.entry, line.settings, line.only = entry, line.settings or settings or NoSettings, line.only or only
            return entry

        return enter

    def get(self, name: str) -> Entry:
        """The entry, or a UserError that lists the known names."""
        key, line = self._loaded(name)
        if not key.endswith(FAMILY):
            return cast(Entry, line.entry)
        return cast(Entry, partial(cast(Callable[..., Any], line.entry), name.partition(":")[2]))

    def settings(self, name: str) -> type:
        """The class of an entry's settings."""
        line = self._lines[self._key(name)]
        return line.settings or self._loaded(name)[1].settings or NoSettings

    def only(self, name: str) -> str:
        """Why an entry cannot be built from settings; "" where it can."""
        return self._lines[self._key(name)].only

    def choose(self, name: str, given: Mapping[str, Any] | None = None, base: Choice | None = None) -> Choice:
        """An entry with its settings: those given, then those of `base` where it is the same entry, then its own.

        UserError for an unknown entry; UnfitSettings for settings that the entry does not have, or out of bounds.
        """
        key = self._key(name)
        name = name if key.endswith(FAMILY) else key
        if only := self.only(name):
            free = " or ".join(known for known in self if not self.only(known))
            raise UserError(f"{self.kind} {name} is only {only}; give {free}.")
        start = base.settings if base is not None and base.name == name else self.settings(name)()
        return Choice(name, fill(start, given or {}, f"{self.kind} {name}"))

    def build(self, choice: Choice, *given: Any, **more: Any) -> Any:
        """Call the entry with what all entries take, and its settings as keywords."""
        return cast(Callable[..., Any], self.get(choice.name))(*given, **more, **choice.arguments())

    def _key(self, name: str) -> str:
        family = name.partition(":")[0] + FAMILY
        for key in (name, name.replace("-", "_"), family):  # --method feature-l2 is feature_l2
            if key in self._lines:
                return key
        raise UserError(f"{self.kind} {name!r} is unknown; known are {', '.join(sorted(self._lines))}.")

    def _loaded(self, name: str) -> tuple[str, _Line[Entry]]:
        key = self._key(name)
        line = self._lines[key]
        if line.entry is None:
            importlib.import_module(str(line.module))
            if line.entry is None:
                raise ValueError(f"{line.module} does not register the {self.kind} {name!r}")
        return key, line

    def __iter__(self) -> Iterator[str]:
        """The names, sorted; a family is no entry of its own."""
        return iter(sorted(name for name in self._lines if not name.endswith(FAMILY)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name.endswith(FAMILY):
            return False
        return name in self._lines or name.partition(":")[0] + FAMILY in self._lines


def component(registry: Registry[Any], name: str, help: str, **given: Any) -> Any:
    """A field of a settings dataclass that holds a Choice, by default the entry `name` with the settings given."""
    metadata = {"help": help, "unit": "", "registry": registry}
    return dataclasses.field(default=registry.choose(name, given), metadata=metadata)

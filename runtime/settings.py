"""Settings as frozen dataclasses: every field says its default, its help and its unit; its type holds its bounds.

    @dataclass(frozen=True)
    class TinySettings:
        base_width: Channels = setting(8, "Channels of the last block.", "channels")

Flags, YAML keys, `list` and error messages are all derived from these.  No torch here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from runtime.errors import UserError

Settings = TypeVar("Settings")


def setting(default: Any, help: str, unit: str = "") -> Any:
    """A field of a settings dataclass.  help: a sentence; unit: of the value, e.g. "steps"."""
    return dataclasses.field(default=default, metadata={"help": help, "unit": unit})


@dataclass(frozen=True)
class NoSettings:
    """Of an entry that has nothing to set."""


@dataclass(frozen=True)
class Setting:
    """One field; `kind` is its type with its bounds, and takes lists as text with commas.

    `registry`: whose entry the field holds, as a Choice.
    """

    name: str
    kind: Any
    default: Any
    help: str
    unit: str
    registry: Any = None


@dataclass(frozen=True)
class Problem:
    """A value that does not fit; `text` goes on from it: "it must be 1 or more".  `known`: the field exists."""

    name: str
    value: Any
    text: str
    known: bool = True


class UnfitSettings(UserError):
    """Settings that are unknown or out of bounds, all at once.  whose: e.g. "student generator tinygan"."""

    def __init__(self, whose: str, problems: Sequence[Problem]) -> None:
        sentences = [f"{one.name} is {one.value!r}; {one.text}" if one.known else one.text for one in problems]
        super().__init__(f"{whose}: {', '.join(sentences)}.")
        self.problems = tuple(problems)


def settings_of(settings: type) -> list[Setting]:
    """The fields of a settings dataclass, in order."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return [
        Setting(
            field.name,
            _with_commas(hints[field.name]),
            field.default if field.default_factory is dataclasses.MISSING else field.default_factory(),
            field.metadata.get("help", ""),
            field.metadata.get("unit", ""),
            field.metadata.get("registry"),
        )
        for field in dataclasses.fields(settings)
    ]


def fill(base: Settings, given: Mapping[str, Any], whose: str) -> Settings:
    """`base` with the values given, which may be text (flags) or what YAML makes of it.

    Raises UnfitSettings with every value that is unknown, of another type or out of bounds.
    """
    fields = {field.name: field for field in settings_of(type(base))}
    values, problems = {}, []
    for name, value in given.items():
        if name not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has none"
            problems.append(Problem(name, value, f"{whose} has no setting {name}; {has}", known=False))
            continue
        try:
            values[name] = TypeAdapter(fields[name].kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            text = error.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(Problem(name, value, text[0].lower() + text[1:]))
    if problems:
        raise UnfitSettings(whose, problems)
    return dataclasses.replace(base, **values)  # type: ignore[type-var]


def as_json(settings: Any) -> dict[str, Any]:
    """For cards: the fields by name, a chosen entry with its settings as {"name": ..., ...}."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: value.to_json() if hasattr(value, "to_json") else value for name, value in values.items()}


def split_commas(value: Any) -> Any:
    """Text with commas as a tuple; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def without_none(kind: Any) -> Any:
    """The type behind Annotated and `| None`."""
    if get_origin(kind) is Annotated:
        return without_none(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, UnionType):
        rest = [part for part in get_args(kind) if part is not type(None)]
        return without_none(rest[0]) if rest else kind
    return kind


def _with_commas(kind: Any) -> Any:
    return Annotated[kind, BeforeValidator(split_commas)] if get_origin(without_none(kind)) is tuple else kind

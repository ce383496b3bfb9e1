"""Flags of an options model, and their help under headings.

The settings of a chosen entry are flags too, `--generator.base-width 8`; help shows those of the entry on the command
line, or of the default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from commands.support.headings import arranged
from commands.support.options import SharedOptions, extra_of, flag
from commands.support.resolving import aliases_of, registries_of
from runtime.errors import UserError
from runtime.registry import Choice, Registry
from runtime.settings import Setting, settings_of, without_none

_TYPED = "retort.typed"  # the words of the command line, in click's context
_FIRST_COLUMN = 32  # characters, at most a third of the terminal
_JOINED = "\xa0"  # a blank at which help breaks no line


class FlagsCommand(click.Command):
    """The flags of a model, `--config`, aliases that are not shown, and settings of entries as they are typed."""

    def __init__(self, name: str, model: type[SharedOptions], positional: str | None, **more: Any) -> None:
        params: list[click.Parameter] = [_field_option(field, info) for field, info in model.model_fields.items()]
        params.append(click.Option(["--config", "config"], metavar="FILE", help="YAML with these options as keys."))
        params += [_alias_option(model, alias, targets[0]) for alias, targets in aliases_of(model).items()]
        if positional:
            params.append(click.Argument(["place"], required=False, metavar=f"[{positional.upper()}]"))
        super().__init__(name, params=params, **more)
        self.model = model

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = list(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Also `--generator.ANYTHING`, where it is typed: the entry says what it has."""
        options = "|".join(flag(name)[2:] for name in registries_of(self.model))
        matches = [re.fullmatch(rf"--((?:{options})\.[\w.-]+)(=.*)?", word) for word in ctx.meta.get(_TYPED, [])]
        typed = {match[1].replace("-", "_") for match in matches if match and options}
        return super().get_params(ctx) + [_option(name, str, None, "", hidden=True) for name in sorted(typed)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        chosen = {name: self._chosen(name, ctx.meta.get(_TYPED, [])) for name in registries_of(self.model)}
        shown: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name = "help" if "--help" in param.opts else str(param.name)
                shown[name] = [record, *(_settings_records(ctx, name, chosen[name]) if name in chosen else [])]
        column = min(_FIRST_COLUMN, formatter.width // 3)
        for heading, names in arranged(shown).items():
            entries = [chosen[name].name for name in names if name in chosen]
            with formatter.section(f"{heading} ({entries[0]})" if entries else heading):
                rows = [record for name in names for record in shown[name]]
                formatter.write_dl([(term.ljust(column), text) for term, text in rows], col_max=column)
        formatter.buffer = [text.replace(_JOINED, " ") for text in formatter.buffer]

    def _chosen(self, option: str, typed: Sequence[str]) -> Choice:
        """The entry that the command line names, else the default."""
        default = self.model.model_fields[option].default
        chosen: Choice = default[0] if isinstance(default, tuple) else default
        names = {flag(option), *(flag(alias) for alias, targets in aliases_of(self.model).items() if option in targets)}
        for place, word in enumerate(typed):
            word, _, value = word.partition("=")
            if word in names:
                try:
                    name = (value or typed[place + 1]).split(",")[0]
                    chosen = registries_of(self.model)[option].choose(name, base=chosen)
                except (UserError, IndexError):  # the run says what is wrong with it
                    pass
        return chosen


def _settings_records(ctx: click.Context, option: str, choice: Choice) -> list[tuple[str, str]]:
    """The rows of an entry's settings."""
    records = [
        _setting_option(option, one, getattr(choice.settings, one.name)).get_help_record(ctx)
        for one in settings_of(type(choice.settings))
    ]
    return [record for record in records if record is not None]


def _setting_option(option: str, one: Setting, default: Any) -> click.Option:
    kind = without_none(one.kind)
    kind = Literal["on", "off"] if kind is bool else kind
    return _option(f"{option}.{one.name}", kind, default, one.help, one.unit)


def _field_option(name: str, info: FieldInfo) -> click.Option:
    registry: Registry[Any] | None = extra_of(info, "registry")
    key, help_text = info.alias or name, info.description or ""
    if registry is None:
        return _option(key, without_none(info.annotation), info.default, help_text, extra_of(info, "unit") or "")
    names = [known for known in registry if not registry.only(known)]
    default = info.default
    shown = ",".join(one.name for one in default) if isinstance(default, tuple) else default.name
    known = f" One of {', '.join(names)}; `list NAME` shows the settings of each." if len(names) > 1 else ""
    return _option(key, str, shown, f"{help_text}{known}")


def _alias_option(model: type[SharedOptions], alias: str, target: str) -> click.Option:
    option, _, setting = target.partition(".")
    info = model.model_fields[option]
    kind = str if extra_of(info, "registry") else without_none(info.annotation)
    if setting:
        default = info.default[0] if isinstance(info.default, tuple) else info.default
        kind = bool if isinstance(getattr(default.settings, setting, None), bool) else str
    return _option(alias, kind, None, "", hidden=True)


def _option(name: str, kind: Any, default: Any, help: str, unit: str = "", hidden: bool = False) -> click.Option:
    """One flag; click takes text, the model turns it into values.  Its default stands in the help alone."""
    words = [flag(name), name.replace(".", "__")]
    text = f"{help}{_default_text(default, unit)}"
    if kind is bool:
        words[0] = f"{words[0]}/--no-{words[0][2:]}"
        return click.Option(words, default=None, help=text, hidden=hidden)
    if get_origin(kind) is Literal:
        choices = click.Choice([str(value) for value in get_args(kind)])
        return click.Option(words, type=choices, help=text, hidden=hidden)
    return click.Option(words, type=str, metavar=_metavar(kind), help=text, hidden=hidden)


def _default_text(default: Any, unit: str) -> str:
    if isinstance(default, bool):
        default = "on" if default else "off"
    if isinstance(default, tuple):
        default = ",".join(str(part) for part in default)
    if isinstance(default, float):
        default = f"{default:.6g}"
    if default is None or default == "":
        return ""
    return "  " + f"[default: {default} {unit}".strip().replace(" ", _JOINED) + "]"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"{_metavar(without_none(get_args(kind)[0]))},..."
    return {int: "N", float: "X", str: "NAME", Path: "PATH"}.get(kind, "TEXT")

"""Options: one frozen model a command gives the flags, the YAML keys and the help text.  No torch here.

A command module offers `Options` (a subclass of SharedOptions), `run(options) -> dict`, and where it wants them
`show(result) -> str` (text for people), `needs(options) -> dict` (disk and memory for --dry-run, and "refused" where it
is not there), `check(options)` (what can be refused before any file is looked at) and `POSITIONAL` (the option that
may be given without its flag).  `run` checks everything first, then calls `work_begins` (`artefact` does), where a dry
run ends.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Set
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)  # fmt: skip
from pydantic.fields import FieldInfo

from runtime.bounds import LARGEST_SEED, MOST, Seed, ShareAboveZero
from runtime.errors import UserError
from runtime.os_errors import named
from runtime.ranks import is_main_process, launched_ranks
from runtime.safe_files import printable, read_text, read_yaml, terminal_text
from runtime.safe_files.sealed_json import SEAL, open_seal


def _split_commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("it must hold one value or more, with commas between them")
    return value


def _names_in_file(value: Any) -> Any:
    """A file with one name a line is as good as a list."""
    if isinstance(value, str) and "," not in value and Path(value).is_file():
        return tuple(line.strip() for line in read_text(Path(value)).splitlines() if line.strip())
    return value


def _as_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdigit() else value


Channels = Annotated[Literal[1, 3], BeforeValidator(_as_number)]
Rhos = Annotated[tuple[ShareAboveZero, ...], BeforeValidator(_split_commas), AfterValidator(_some)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_split_commas), AfterValidator(_some)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
ListedNames = Annotated[tuple[str, ...], BeforeValidator(_split_commas), BeforeValidator(_names_in_file)]  # last first


class SharedOptions(BaseModel):
    """Flags that mean the same everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    out: Path | None = Field(None, description="Write here instead of the workspace.")
    workspace: Path = Field(Path("runs/digits"), description="Folder in which commands find each other's results.")
    seed: Seed = Field(0, description="Every random draw follows from it.")
    workers: int = Field(1, ge=1, description="Processes; each gets cores / workers threads.")
    engine: Literal["local", "ray"] = Field("local", description="Where work items run; ray needs a cluster.")
    ray_address: str | None = Field(
        None, description="Ray cluster: HOST:PORT, auto, or local to start one  [default: RAY_ADDRESS]"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    json_: bool = Field(False, alias="json", description="Print one JSON object.")
    dry_run: bool = Field(False, description="Check everything, print what would be done and what it needs, and stop.")

    @field_validator("*")
    @classmethod
    def _not_absurd(cls, value: Any, info: ValidationInfo) -> Any:
        """A whole number beyond all that can be counted here is a slip."""
        most = LARGEST_SEED if "seed" in str(info.field_name) else MOST
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and one > most:
                raise ValueError(f"it must be {most:,} or less")
        return value


_MOST_MISTAKES = 12  # that one message names
PLUMBING = {"extend", "out", "workspace", "workers", "engine", "ray_address", "device", "json", "json_", "dry_run"}
ENGINE_USERS = ("sample", "score", "repair", "search-rho", "evaluate")
RANK_USERS = ("train-teacher", "train-classifier", "train-student", "distill")  # share a training through torchrun


class DataOptions(SharedOptions):
    """Flags of commands that read real images."""

    data: str = Field("digits", description="digits, rotated-digits, cifar10, an image folder, a .zip or an .h5 file.")
    fold: int = Field(0, ge=0, description="Cross-fitting fold of the embedded digits (0, 1 or 2).")
    resolution: int | None = Field(None, ge=8, le=512, description="Side of the images in pixels.")
    real_per_class: int | None = Field(None, ge=1, description="Use only this many training images a class.")
    data_seed: int = Field(0, ge=0, description="Which images --real-per-class takes.")
    download: bool = Field(False, description="Allow the dataset to be downloaded.")


def settings_options(settings: type, name: str, exclude: Set[str] = frozenset()) -> Any:
    """A model with the fields of a settings dataclass: the room's defaults, as flags.

    The help of a flag is the comment behind its field, its bounds are those of the field's type.
    """
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(settings), flags=re.MULTILINE))
    hints = typing.get_type_hints(settings, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if field.name in exclude:
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        kind = hints[field.name]
        if get_origin(_without_none(kind)) is tuple:
            kind = Annotated[kind, BeforeValidator(_split_commas)]
        fields[field.name] = (kind, Field(default, description=comments.get(field.name, "")))
    return create_model(name, __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False), **fields)


def settings_from(options: BaseModel, settings: type, **fixed: Any) -> Any:
    """The room's settings dataclass, filled from the options that bear its field names."""
    known = {field.name for field in dataclasses.fields(settings)}
    values = {name: getattr(options, name) for name in type(options).model_fields if name in known}
    return settings(**{**values, **fixed})


def build_command(name: str, line: str, module: types.ModuleType) -> click.Command:
    """The click command of a command module."""
    model: type[SharedOptions] = module.Options
    params: list[click.Parameter] = [_click_option(field, info) for field, info in model.model_fields.items()]
    params.append(
        click.Option(["--config", "config"], type=str, metavar="FILE", help="YAML with these options as keys.")
    )

    positional: str | None = getattr(module, "POSITIONAL", None)
    if positional:
        params.append(click.Argument(["place"], required=False, metavar=f"[{positional.upper()}]"))

    def callback(config: str | None, place: str | None = None, **given: Any) -> int:
        if positional and place is not None:
            given[positional] = place
        options = resolve(model, config, {key: value for key, value in given.items() if value is not None})
        return execute(name, module, options)

    return click.Command(name, params=params, callback=callback, help=module.__doc__, short_help=line)


def execute(name: str, module: types.ModuleType, options: SharedOptions) -> int:
    """Run (or dry-run) a command and print its result on stdout; under torchrun, once."""
    from commands.support.artefact_kinds import check_kinds

    if launched_ranks() > 1 and name not in RANK_USERS:
        raise UserError(f"torchrun is for {', '.join(RANK_USERS)}; run {name} without it.")
    _check_shared(name, options)
    if check := getattr(module, "check", None):
        check(options)
    check_kinds(options)
    if options.dry_run:
        plan = _dry_run(name, module, options)
        if is_main_process():
            _print(plan, options.json_, None)
        if refused := plan["needs"].get("refused"):
            raise UserError(str(refused))
        return 0
    result = module.run(options)
    if is_main_process():
        _print(result, options.json_, getattr(module, "show", None))
    return int(result.get("exit_code", 0))


def _check_shared(name: str, options: SharedOptions) -> None:
    """UserError where the options that all commands have cannot be met."""
    if options.ray_address is not None and options.engine != "ray":
        raise UserError(f"--ray-address {options.ray_address} is for --engine ray; give both or neither.")
    if options.engine != "local" and name not in ENGINE_USERS:
        raise UserError(f"--engine {options.engine} is for {', '.join(ENGINE_USERS)}; {name} runs here, leave it out.")
    if options.engine == "ray":
        from runtime.ray_engine import check_installed

        check_installed()
    if options.device != "auto":
        from runtime.devices import pick_device

        pick_device(options.device)


def _dry_run(name: str, module: types.ModuleType, options: SharedOptions) -> dict[str, Any]:
    """The run up to where its work would begin, then what it would work on and what that needs."""
    from commands.support.dry_run import WorkBegins
    from commands.support.workspace import check_inputs, describe_inputs

    end = WorkBegins("all")
    try:
        module.run(options)
    except WorkBegins as found:
        end = found
        check_inputs(options)
    plan: dict[str, Any] = {"command": name, "options": plain(options), "inputs": describe_inputs(options)}
    plan["checked"] = end.checked
    if end.folder is not None:
        plan |= {"folder": str(end.folder), "finished": end.finished}
    needs: Callable[[Any], dict[str, Any]] | None = getattr(module, "needs", None)
    resolved = options if end.folder is None else options.model_copy(update={"out": end.folder})
    plan["needs"] = end.needs or (needs(resolved) if needs and not end.finished else {})
    return plan


def plain(options: BaseModel) -> dict[str, Any]:
    """The options as JSON values, keyed as in YAML."""
    return json.loads(options.model_dump_json(by_alias=True))


def resolve(model: type[SharedOptions], config: str | None, given: dict[str, Any]) -> Any:
    """YAML below, flags on top; every mistake is reported, in one sentence each."""
    values = _read_config(Path(config), model) if config else {}
    values.update(given)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        origin = f" (flags and {config})" if config else ""
        first = {item["loc"][:1]: item for item in reversed(error.errors())}  # of a list, its first bad value
        found = list(reversed(first.values()))
        more = f" And {len(found) - _MOST_MISTAKES} more." if len(found) > _MOST_MISTAKES else ""
        raise UserError(" ".join(map(_sentence, found[:_MOST_MISTAKES])) + more + origin) from error


def _read_config(path: Path, model: type[SharedOptions]) -> dict[str, Any]:
    found = read_yaml(path, "--config")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"--config {path} must hold options as KEY: VALUE lines.")
    if not open_seal(found):
        raise UserError(f"--config {path} is not as it was written; restore it, or take its line `{SEAL}` out.")
    found = {str(key).replace("-", "_"): value for key, value in found.items()}
    known = {info.alias or name for name, info in model.model_fields.items()}
    unknown = sorted(set(found) - known)
    if unknown:
        raise UserError(
            f"--config {path} has unknown keys: {printable(', '.join(unknown))}; known are {', '.join(sorted(known))}."
        )
    return found


def _sentence(item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else "options"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{printable(_flag(name))} is no option of this command."
    return f"{_flag(name)} {printable(_short(item['input']))}: {printable(message[0].lower() + message[1:])}."


def _short(value: Any) -> str:
    """A value from a file, which may be a whole tree of them: only the first few are ever made into text."""
    if isinstance(value, dict):
        return f"a mapping of {len(value)} entries"
    if isinstance(value, list | tuple) and (len(value) > 8 or any(isinstance(part, dict | list) for part in value)):
        return f"a list of {len(value)} entries"
    return repr(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _click_option(name: str, info: FieldInfo) -> click.Option:
    key = info.alias or name
    flag = _flag(key)
    shown = info.default
    help_text = info.description or ""
    kind = _without_none(info.annotation)
    if kind is bool:
        default = "" if shown is None else f"  [default: {'on' if shown else 'off'}]"
        return click.Option([f"{flag}/--no-{flag[2:]}", key], default=None, help=f"{help_text}{default}")
    if isinstance(shown, tuple):
        shown = ",".join(str(part) for part in shown)
    if shown is not None and shown != "":
        help_text = f"{help_text}  [default: {shown}]"
    if get_origin(kind) is Literal:
        return click.Option([flag, key], type=click.Choice([str(value) for value in get_args(kind)]), help=help_text)
    return click.Option([flag, key], type=str, metavar=_metavar(kind), help=help_text)


def _without_none(kind: Any) -> Any:
    """The type behind Annotated and `| None`."""
    if get_origin(kind) is Annotated:
        return _without_none(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, types.UnionType):
        rest = [part for part in get_args(kind) if part is not type(None)]
        return _without_none(rest[0]) if rest else kind
    return kind


def _metavar(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"{_metavar(_without_none(get_args(kind)[0]))},..."
    return {int: "N", float: "X", str: "NAME", Path: "PATH"}.get(kind, "TEXT")


def _print(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], str] | None) -> None:
    if as_json:
        text = json.dumps(result, default=str)  # ASCII: escapes for all that is not
    else:
        text = terminal_text(_lines(result) if show is None else show(result), sys.stdout.encoding)
    with named(Path("standard output")):
        click.echo(text)


def _lines(result: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", _lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)

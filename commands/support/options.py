"""Options: one frozen model a command gives the flags, the YAML keys and the help text.  No torch here.

An option that holds a registry's entry is a `Chosen`: `--generator tinygan --generator.base-width 8`, in YAML
`generator: {name: tinygan, base_width: 8}`.  `resolving.py` makes the model from both, `command_line.py` the flags.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    create_model,
    field_validator,
)  # fmt: skip

from runtime.bounds import LARGEST_SEED, MOST, Positive, Seed, ShareAboveZero
from runtime.registry import Choice, Registry
from runtime.safe_files import read_text
from runtime.settings import settings_of, split_commas


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("it must hold one value or more, with commas between them")
    return value


def _names_in_file(value: Any) -> Any:
    """A file with one name a line is as good as a list."""
    if isinstance(value, str) and "," not in value and Path(value).is_file():
        return tuple(line.strip() for line in read_text(Path(value)).splitlines() if line.strip())
    return value


def _entries(value: Any) -> Any:
    """`resolving` has turned names and settings into choices; nothing else is one."""
    for one in value if isinstance(value, tuple) else (value,):
        if not isinstance(one, Choice):
            raise ValueError("it must be a name, or a mapping with a name and settings")
    return value


def _as_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _no_file(value: Path) -> Path:
    """Neither the folder nor one above it is a file."""
    there = next((path for path in (value, *value.parents) if path.exists()), value)
    if there.exists() and not there.is_dir():
        raise ValueError(
            "it is a file; give a folder"
            if there == value
            else f"the path leads through {there}, which is a file; give a folder"
        )
    return value


Folder = Annotated[Path, AfterValidator(_no_file)]
Channels = Annotated[Literal[1, 3], BeforeValidator(_as_number)]
Rhos = Annotated[tuple[ShareAboveZero, ...], BeforeValidator(split_commas), AfterValidator(_some)]
LearningRates = Annotated[tuple[Positive, ...], BeforeValidator(split_commas)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(split_commas), AfterValidator(_some)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
ListedNames = Annotated[tuple[str, ...], BeforeValidator(split_commas), BeforeValidator(_names_in_file)]  # last first
Chosen = Annotated[Choice, PlainValidator(_entries), PlainSerializer(lambda choice: choice.to_json())]
SeveralChosen = Annotated[
    tuple[Choice, ...], PlainValidator(_entries), PlainSerializer(lambda choices: [one.to_json() for one in choices])
]


class SharedOptions(BaseModel):
    """Flags that mean the same everywhere.

    `aliases`: other spellings of options -> the option, or the setting of a chosen entry ("generator.width"), or
    several of them.  They are accepted as flags and in YAML, and shown nowhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    aliases: ClassVar[Mapping[str, str | tuple[str, ...]]] = {}

    out: Path | None = Field(None, description="Write here instead of the workspace.")
    workspace: Folder = Field(Path("runs/digits"), description="Folder in which commands find each other's results.")
    seed: Seed = Field(0, description="Every random draw follows from it.")
    workers: int = Field(1, ge=1, description="Processes; each gets cores / workers threads.")
    engine: Literal["local", "ray"] = Field("local", description="Where work items run; ray needs a cluster.")
    ray_address: str | None = Field(
        None, description="Ray cluster: HOST:PORT, auto, or local to start one  [default: RAY_ADDRESS]"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    json_: bool = Field(False, alias="json", description="Print one JSON object.")
    dry_run: bool = Field(False, description="Check everything, print what would be done and what it needs, and stop.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_slip(cls, value: Any, info: ValidationInfo) -> Any:
        """`yes` where a number belongs is no 1, and no text at all is no path."""
        kind = str(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and "bool" not in kind:
            raise ValueError("it must be a value, not true or false")
        if value == "" and ("Path" in kind or info.field_name == "data"):
            raise ValueError("it is empty; give a path")
        return value

    @field_validator("*")
    @classmethod
    def _not_absurd(cls, value: Any, info: ValidationInfo) -> Any:
        """A whole number beyond all that can be counted here is a slip."""
        most = LARGEST_SEED if "seed" in str(info.field_name) else MOST
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and one > most:
                raise ValueError(f"it must be {most:,} or less")
        return value


PLUMBING = {"extend", "out", "workspace", "workers", "engine", "ray_address", "device", "json", "json_", "dry_run"} | {
    "data_on_device"
}


class DataOptions(SharedOptions):
    """Flags of commands that read real images."""

    data: str = Field("digits", description="digits, rotated-digits, cifar10, an image folder, a .zip or an .h5 file.")
    fold: int = Field(0, ge=0, description="Cross-fitting fold of the embedded digits (0, 1 or 2).")
    resolution: int | None = Field(None, ge=8, le=512, description="Side of the images in pixels.")
    real_per_class: int | None = Field(None, ge=1, description="Use only this many training images a class.")
    data_seed: int = Field(0, ge=0, description="Which images --real-per-class takes.")
    download: bool = Field(False, description="Allow the dataset to be downloaded.")


def settings_options(settings: type, name: str, exclude: Set[str] = frozenset()) -> Any:
    """A model with the fields of a settings dataclass: the room's defaults, help, units and bounds, as flags."""
    fields: dict[str, Any] = {}
    for one in settings_of(settings):
        if one.name not in exclude:
            kind = one.kind if one.registry is None else Chosen
            fields[one.name] = (kind, option(one.default, one.help, one.unit, one.registry))
    return create_model(name, __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False), **fields)


def option(default: Any, help: str, unit: str = "", registry: Registry[Any] | None = None) -> Any:
    """A field of an options model with a unit, or with a registry whose entry it holds."""
    extra: Any = {"unit": unit, "registry": registry}
    return Field(default, description=help, json_schema_extra=extra)


def entry_option(registry: Registry[Any], name: str, help: str, **given: Any) -> Any:
    """A field of an options model that holds an entry: by default `name` with the settings given."""
    return option(registry.choose(name, given), help, registry=registry)


def settings_from(options: BaseModel, settings: type, **fixed: Any) -> Any:
    """The room's settings dataclass, filled from the options that bear its field names."""
    known = {field.name for field in dataclasses.fields(settings)}
    values = {name: getattr(options, name) for name in type(options).model_fields if name in known}
    return settings(**{**values, **fixed})


def extra_of(info: Any, name: str) -> Any:
    """What `option` noted of a field: its "unit" or "registry"; None where there is none."""
    extra = info.json_schema_extra
    return (extra.get(name) or None) if isinstance(extra, dict) else None


def plain(options: BaseModel) -> dict[str, Any]:
    """The options as JSON values, keyed as in YAML."""
    values: dict[str, Any] = json.loads(options.model_dump_json(by_alias=True))
    return values


def flag(name: str) -> str:
    """`generator.base_width` -> `--generator.base-width`."""
    return "--" + name.replace("_", "-")

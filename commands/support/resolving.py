"""From flags and YAML to one options model: aliases, chosen entries with their settings, and every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from commands.support.options import SharedOptions, extra_of, flag
from runtime.errors import UserError
from runtime.registry import Choice, Registry
from runtime.safe_files import printable, read_yaml
from runtime.safe_files.sealed_json import SEAL, open_seal
from runtime.settings import UnfitSettings, settings_of, split_commas

_MOST_MISTAKES = 12  # that one message names


@dataclass(frozen=True)
class Given:
    """A value, and the key under which it was given."""

    value: Any
    key: str


def resolve(model: type[SharedOptions], config: str | None, given: Mapping[str, Any]) -> Any:
    """YAML below, flags on top; every mistake is reported, in one sentence each."""
    values = canonical(model, _read_config(Path(config), model)) if config else {}
    values |= canonical(model, given)
    plain, mistakes = _choose_entries(model, values)
    try:
        options = model.model_validate(plain)
    except ValidationError as error:
        first = {item["loc"][:1]: item for item in reversed(error.errors())}  # of a list, its first bad value
        mistakes = [_sentence(item, values) for item in reversed(first.values())] + mistakes
    if mistakes:
        more = f" And {len(mistakes) - _MOST_MISTAKES} more." if len(mistakes) > _MOST_MISTAKES else ""
        origin = f" (flags and {config})" if config else ""
        raise UserError(" ".join(mistakes[:_MOST_MISTAKES]) + more + origin)
    return options


def aliases_of(model: type[SharedOptions]) -> dict[str, tuple[str, ...]]:
    """Other spellings -> the options or settings that they stand for, of a model and its base classes."""
    aliases: dict[str, tuple[str, ...]] = {}
    for part in reversed(model.__mro__):
        for name, target in vars(part).get("aliases", {}).items():
            aliases[name] = (target,) if isinstance(target, str) else target
    return aliases


def registries_of(model: type[SharedOptions]) -> dict[str, Registry[Any]]:
    """The options that hold entries of registries."""
    registries = {name: extra_of(info, "registry") for name, info in model.model_fields.items()}
    return {name: registry for name, registry in registries.items() if registry is not None}


def canonical(model: type[SharedOptions], given: Mapping[str, Any]) -> dict[str, Given]:
    """What was given, by option ("generator": the name) and setting ("generator.base_width").

    An alias and the nested form become the same; UserError where both are given and differ.
    """
    aliases, registries = aliases_of(model), registries_of(model)
    by_name: dict[str, Given] = {}
    for key, value in given.items():
        for target in aliases.get(key, (key,)):
            for name, one in _expanded(target, value) if target in registries else [(target, value)]:
                if name in by_name and by_name[name].value != one:
                    raise UserError(f"{flag(by_name[name].key)} and {flag(key)} are the same option; give one of them.")
                by_name[name] = Given(one, key if name == target else name)
    return by_name


def _expanded(option: str, value: Any) -> list[tuple[str, Any]]:
    """An entry with settings in one value, as YAML has it, as one pair for its name and one for each setting."""
    if isinstance(value, Choice):
        value = value.to_json()
    if not isinstance(value, Mapping):
        return [(option, value)]
    keys = {str(key).replace("-", "_"): one for key, one in value.items()}
    return [(option if key == "name" else f"{option}.{key}", one) for key, one in keys.items()]


def _choose_entries(model: type[SharedOptions], values: Mapping[str, Given]) -> tuple[dict[str, Any], list[str]]:
    """Values for the model, with names and settings as choices; a sentence for each that its entry refuses."""
    plain = {name: given.value for name, given in values.items()}
    mistakes: list[str] = []
    for option, registry in registries_of(model).items():
        own = {name: plain.pop(name) for name in values if name.partition(".")[0] == option}
        if not own:
            continue
        default = model.model_fields[option].default
        settings = {name.partition(".")[2]: value for name, value in own.items() if name != option}
        try:
            if isinstance(default, tuple):
                names = split_commas(own.get(option, [one.name for one in default]))
                if not names:
                    raise UserError("it must hold one name or more, with commas between them.")
                entries = [dict(_expanded(option, one)) for one in names]
                plain[option] = _choose_several(registry, option, entries, settings, default[0])
            else:
                plain[option] = registry.choose(_name(own.get(option, default.name)), settings, default)
        except UnfitSettings as error:
            for problem in error.problems:
                key = f"{option}.{problem.name}"  # not among the values where one of several entries has it
                typed = flag(values[key].key if key in values else key)
                shown = f"{typed} {printable(_short(problem.value))}" if problem.known else printable(typed)
                mistakes.append(f"{shown}: {printable(problem.text)}.")
        except UserError as error:
            mistakes.append(f"{flag(values[option].key if option in values else option)}: {error}")
    return plain, mistakes


def _choose_several(
    registry: Registry[Any],
    option: str,
    entries: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    default: Choice,
) -> tuple[Choice, ...]:
    """Several entries, each with its own settings and those of `settings` that it has; each of these one must have."""
    names = [_name(given.get(option)) for given in entries]
    has = [{one.name for one in settings_of(registry.settings(name))} for name in names]
    chosen = []
    for name, known, given in zip(names, has, entries, strict=True):
        shared = {key: value for key, value in settings.items() if key in known or not any(key in one for one in has)}
        own = {key.partition(".")[2]: value for key, value in given.items() if key != option}
        chosen.append(registry.choose(name, {**shared, **own}, default))
    return tuple(chosen)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{printable(_short(value))} is no name of an entry.")
    return value


def _read_config(path: Path, model: type[SharedOptions]) -> dict[str, Any]:
    content = read_yaml(path, "--config")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold options as KEY: VALUE lines.")
    if not open_seal(content):
        raise UserError(f"--config {path} is not as it was written; restore it, or take its line `{SEAL}` out.")
    content = {str(key).replace("-", "_"): value for key, value in content.items()}
    known = {info.alias or name for name, info in model.model_fields.items()}
    entries = registries_of(model)
    unknown = sorted(
        key for key in set(content) - known - set(aliases_of(model)) if key.partition(".")[0] not in entries
    )
    if unknown:
        raise UserError(
            f"--config {path} has unknown keys: {printable(', '.join(unknown))}; known are {', '.join(sorted(known))}."
        )
    return content


def _sentence(item: Any, values: Mapping[str, Given]) -> str:
    name = str(item["loc"][0]) if item["loc"] else "options"
    message = item["msg"].removeprefix("Value error, ")
    typed = printable(flag(values[name].key if name in values else name))
    if item["type"] == "extra_forbidden":
        return f"{typed} is no option of this command."
    return f"{typed} {printable(_short(item['input']))}: {printable(message[0].lower() + message[1:])}."


def _short(value: Any) -> str:
    """A value from a file, which may be a whole tree of them: only the first few ever become text."""
    if isinstance(value, dict):
        return f"a mapping of {len(value)} entries"
    if isinstance(value, list | tuple) and (len(value) > 8 or any(isinstance(part, dict | list) for part in value)):
        return f"a list of {len(value)} entries"
    return repr(value)

"""List what the options accept: datasets, networks, methods and losses, how each is used, and the settings of each.

`list NAME` shows one entry, or one kind ("student generator"), with its settings.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from pydantic import Field

from commands.support.options import SharedOptions
from runtime.errors import UserError
from runtime.settings import settings_of

POSITIONAL = "name"


class Options(SharedOptions):
    """Flags of list."""

    name: str | None = Field(None, description="Show this entry, or this kind of entries, alone.")


def run(options: Options) -> dict[str, Any]:
    """Registry -> entry -> how it is used, and its settings: name, default, unit and help."""
    from classifiers import STUDENTS
    from classifiers.foreign.normalisation import NORMALISATIONS
    from evaluation.metrics import METRICS
    from image_data.fake import EXPORT_FORMATS
    from image_data.real import REAL_DATASETS
    from layers.discriminators import DISCRIMINATORS
    from student_trainer import GENERATORS
    from teacher_sampler import TEACHERS
    from teacher_sampler.importers import IMPORTERS
    from training.methods import METHODS

    uses: dict[Any, str] = {
        REAL_DATASETS: "--data",
        IMPORTERS: "import-teacher --arch",
        TEACHERS: "train-teacher --generator",
        GENERATORS: "train-student --generator",
        DISCRIMINATORS: "train-teacher, train-student --discriminator",
        STUDENTS: "train-classifier, distill --network; search-rho --networks; also timm:NAME",
        METHODS: "distill, search-rho --method; on features also train-student --white-box-losses NAME=WEIGHT",
        NORMALISATIONS: "import-predictor --normalise",
        METRICS: "evaluate",
        EXPORT_FORMATS: "export-fakes --to",
    }
    kinds = {
        registry.kind: {
            name: {"use": registry.only(name) or use, "settings": _settings(registry.settings(name))}
            for name in registry
        }
        for registry, use in uses.items()
    }
    return kinds if options.name is None else _only(kinds, options.name)


def _settings(settings: type) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "default": one.default, "unit": one.unit, "help": one.help} for one in settings_of(settings)
    ]


def _only(kinds: dict[str, Any], name: str) -> dict[str, Any]:
    """Of all kinds, the one of this name, or those with an entry of this name."""
    if name in kinds:
        return {name: kinds[name]}
    kept = {kind: {name: entries[name]} for kind, entries in kinds.items() if name in entries}
    if not kept:
        raise UserError(f"{name!r} is no entry and no kind of entries; `python cli.py list` shows all.")
    return kept


def show(result: dict[str, Any]) -> str:
    """A line a registry and use; below it the settings, once for the entries that share them."""
    lines: list[str] = []
    for kind, entries in result.items():
        for use in dict.fromkeys(entry["use"] for entry in entries.values()):
            names = [name for name, entry in entries.items() if entry["use"] == use]
            lines.append(f"{kind}: {', '.join(names)}  ({use})")
            shared: dict[str, list[str]] = {}
            for name in names:
                rows = "\n".join(_row(one) for one in entries[name]["settings"])
                shared.setdefault(rows, []).append(name)
            for rows, owners in shared.items():
                if rows:
                    lines += [f"  {', '.join(owners)}:", rows]
    return "\n".join(lines)


def _row(one: dict[str, Any]) -> str:
    default = one["default"]
    default = ("on" if default else "off") if isinstance(default, bool) else default
    value = f"{default} {one['unit']}".strip()
    start = f"    {one['name'].replace('_', '-'):18s} {value:16s} "
    columns = max(70, min(110, shutil.get_terminal_size().columns))
    return textwrap.fill(one["help"], columns, initial_indent=start, subsequent_indent=" " * len(start))

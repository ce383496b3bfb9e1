"""What `compare` compares: training sets by name, the parts that each seed makes for itself, and the cells.

Training sets and parts are nested options of other commands, in YAML; on the command line their names alone.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from commands.support.options import SharedOptions
from commands.support.resolving import resolve
from commands.support.table import COMMANDS
from commands.support.workspace import call
from runtime.errors import UserError
from runtime.progress import silenced
from runtime.registry import Choice, Registry
from runtime.settings import split_commas
from training.methods import METHODS

TRAINING_SETS = {"real": {"train_on": "real"}, "real + fakes": {"train_on": "mixed"}, "fakes": {"train_on": "fakes"}}
PARTS = ("train-teacher", "train-classifier", "fit-filter", "sample")  # in this order
RESULT_FILE = "result.json"
# Of distill: what all rows of a table must share, or compare itself decides.
_OWN = {
    "method",
    "network",
    "seed",
    "out",
    "workspace",
    "test",
    "data",
    "fold",
    "data_seed",
    "steps",
    "epochs",
    "batch_size",
}


def _by_name(value: Any, known: Mapping[str, Mapping[str, Any]], what: str) -> Any:
    """Names, or a mapping from names to options, as the mapping."""
    if isinstance(value, Mapping):
        named = {str(name): dict(known.get(str(name), {})) | dict(_mapping(options)) for name, options in value.items()}
    else:
        names = split_commas(value)
        unknown = [str(name) for name in names if name not in known]
        if unknown:
            raise ValueError(f"{unknown[0]} is no {what}; known are {', '.join(known)}, others in YAML with options")
        named = {name: dict(known[name]) for name in names}
    return named


def _mapping(options: Any) -> Mapping[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise ValueError("each name must hold options as KEY: VALUE lines")
    return {str(key).replace("-", "_"): value for key, value in (options or {}).items()}


def _training_sets(value: Any) -> Any:
    named = _by_name(value, TRAINING_SETS, "training set")
    if not named:
        raise ValueError("it must hold one training set or more")
    for name, options in named.items():
        if fixed := sorted(_OWN & set(options)):
            raise ValueError(f"{name}: {fixed[0]} is the same for all rows; leave it out of the set")
    return named


def _parts(value: Any) -> Any:
    named = _by_name(value, {name: {} for name in PARTS}, "part")
    if unknown := sorted(set(named) - set(PARTS)):
        raise ValueError(f"{unknown[0]} is no part; known are {', '.join(PARTS)}")
    return {name: named[name] for name in PARTS if name in named}


TrainingSets = Annotated[dict[str, dict[str, Any]], BeforeValidator(_training_sets)]
Parts = Annotated[dict[str, dict[str, Any]], BeforeValidator(_parts)]


@dataclass(frozen=True)
class ComparedCell:
    """One training: `options` are distill's, with the folder that it is written to."""

    training_set: str
    network: str
    method: str
    seed: int
    options: Mapping[str, Any]

    @property
    def result(self) -> Path:
        """There when the cell is finished."""
        return Path(self.options["out"]) / RESULT_FILE

    def place(self) -> Path:
        """Where processes claim it; distill writes into a folder below."""
        return Path(self.options["out"]).parent

    def is_finished(self) -> bool:
        """Whether its training is done and tested."""
        return self.result.is_file()

    def run(self) -> None:
        """Train, or continue; the comparison shows the progress."""
        with silenced():
            call("distill", **self.options)


def label(choice: Choice, registry: Registry[Any]) -> str:
    """An entry as a table names it: with those of its settings that are not its default."""
    usual = registry.choose(choice.name).arguments()
    other = [f"{name} {value}" for name, value in choice.arguments().items() if value != usual[name]]
    return f"{choice.name} ({', '.join(other)})" if other else choice.name


def place(out: Path, training_set: str, network: str, method: str, seed: int) -> Path:
    """The folder of a cell; names of people become names of folders."""
    parts = [re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") for name in (training_set, network, method)]
    return out.joinpath("cells", *parts, f"seed{seed}")


def distill_options(common: Mapping[str, Any], training_set: Mapping[str, Any], method: Choice) -> dict[str, Any]:
    """distill's options of one cell: what all share, then the set's; `beside` for methods that are no whole loss, and
    stored outputs for those that look at a teacher.
    """
    options = {**common, **training_set, "method": method.to_json()}
    entry = METHODS.get(method.name)
    if entry.whole_loss:
        options.pop("beside", None)
        if not entry.requires & {"logits", "features"}:
            options.pop("outputs", None)
    return options


def options_of(command: str) -> type[SharedOptions]:
    """The options of another command."""
    model: type[SharedOptions] = importlib.import_module(f"commands.{COMMANDS[command][0]}").Options
    return model


def check_options(command: str, options: Mapping[str, Any], where: str) -> None:
    """UserError, which says where, for options that the command would refuse."""
    try:
        resolve(options_of(command), None, {name: _typed(value) for name, value in options.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _typed(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

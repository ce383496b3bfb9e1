"""What `compare` compares: training sets by name, the parts that each seed makes for itself, and the cells.

Training sets and parts are nested options of other commands, in YAML; on the command line their names alone.  A set
holds options of distill, and may hold what its seed makes for it alone:

    fakes, unfiltered:
      train_on: fakes
      sample: {filter: none, predictor: none}    # a pool of its own: options over those of the part `sample`
      teacher: {network: vgg8_quarter}           # a larger network trained on this set, which teaches on it; or the
                                                 # name of the set whose teacher it is
      rho: searched                              # what the part search-rho chose
      init_from: baseline                        # fine-tuned from the student of the first method on the first set
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
PARTS = ("train-teacher", "train-classifier", "fit-filter", "sample", "search-rho")  # in this order
SEARCHED, BASELINE = "searched", "baseline"
RESULT_FILE = "result.json"
# Of distill: what all rows of a table must share, or compare itself decides.
MADE = {"sample", "teacher"}  # of a set: what its seed makes for it alone
_OWN = {"method", "network", "seed", "out", "workspace", "test", "data", "fold", "data_seed"}
_OWN |= {"steps", "epochs", "batch_size"}


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
    if named[first := next(iter(named))].get("init_from") == BASELINE:
        raise ValueError(f"{first}: the first set has the baseline itself, which cannot start from it")
    for name, options in named.items():
        if fixed := sorted(_OWN & set(options)):
            raise ValueError(f"{name}: {fixed[0]} is the same for all rows; leave it out of the set")
        named[name] = {key: _made(key, value) if key in MADE else value for key, value in options.items()}
    for name, options in named.items():
        other = options.get("teacher")
        if isinstance(other, str) and not isinstance(named.get(other, {}).get("teacher"), Mapping):
            raise ValueError(f"{name}: teacher {other!r} is no set with a teacher of its own")
    return named


def _made(key: str, value: Any) -> Any:
    """What a set has alone: options, or the name of the set whose teacher it shares."""
    return value if key == "teacher" and isinstance(value, str) else dict(_mapping(value))


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
    def row(self) -> tuple[str, str, str]:
        """What its seeds have in common."""
        return self.network, self.training_set, self.method

    def at_rate(self, rate: float | None) -> ComparedCell:
        """With a learning rate that was chosen for its row; None: as it is."""
        return self if rate is None else replace(self, options={**self.options, "lr": rate})

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


def by_epochs(cell: ComparedCell, epochs: float) -> ComparedCell:
    """The same training by passes through its own images, as published work trains, in a folder beside."""
    home = cell.place()
    own = {"epochs": epochs, "out": str(home.with_name(f"{home.name}-epochs") / "training")}
    return replace(cell, options={name: value for name, value in cell.options.items() if name != "steps"} | own)


def label(choice: Choice, registry: Registry[Any]) -> str:
    """An entry as a table names it: with those of its settings that are not its default."""
    usual = registry.choose(choice.name).arguments()
    other = [f"{name} {value}" for name, value in choice.arguments().items() if value != usual[name]]
    return f"{choice.name} ({', '.join(other)})" if other else choice.name


def place(out: Path, training_set: str, network: str, method: str, seed: int) -> Path:
    """The folder of a cell."""
    return out.joinpath("cells", *map(folder_name, (training_set, network, method)), f"seed{seed}")


def folder_name(name: str) -> str:
    """A name of people as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def distill_options(common: Mapping[str, Any], training_set: Mapping[str, Any], method: Choice) -> dict[str, Any]:
    """distill's options of one cell: what all share, then the set's; `beside` for methods that are no whole loss, and
    stored outputs for those that look at a teacher.
    """
    own = {name: value for name, value in training_set.items() if name not in MADE}
    options = {**common, **own, "method": method.to_json()}
    entry = METHODS.get(method.name)
    if entry.whole_loss:
        options.pop("beside", None)
        if not entry.requires & {"logits", "features"}:
            options.pop("outputs", None)
    return options


def unsettled(options: Mapping[str, Any]) -> dict[str, Any]:
    """distill's options before there are parts: with an ordinary value where a word stands for theirs."""
    words = {"rho": SEARCHED, "init_from": BASELINE}
    return {name: value for name, value in options.items() if words.get(name) != value}


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

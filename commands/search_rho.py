"""Search the filtering quantile rho: one student for each (rho, network, seed), scored on validation images.

Neither the GAN, nor the density ratio, nor the filter's predictor has seen the validation images.  Every cell is a
folder that is written whole, so the search can be killed and continued, and several processes may share it.  A rho is
chosen where its difference to rho 1 is resolved over seeds and images, else rho 1; choice.yaml is for `distill
--config`.  --race drops a rho early, with a stated risk that it was the best.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from classifiers.networks import STUDENTS
from commands.support.builders import load_data, load_predictor
from commands.support.classifier_flags import (
    METHOD_HELP,
    ClassifierFlags,
    MethodOptions,
    classifier_settings,
    start_of,
)
from commands.support.lineage import checked, parts_of_training
from commands.support.options import Chosen, Rhos, Seeds, SeveralChosen, entry_option, option
from commands.support.selection import SelectionOptions, check_soft_labels, data_name, mixed_source, open_matching_fakes
from commands.support.workspace import artefact, artefact_digest, resolve_input
from runtime.bounds import Risk
from runtime.errors import UserError
from runtime.registry import Choice
from training.methods import METHODS

if TYPE_CHECKING:
    from classifiers.rho_race import Race

_MANY_SEEDS, _FEW_SEEDS = 8, 3
_SMALL_TRAINING = 10**12  # multiply-adds of one training: about a minute of one core
_PASSES = 3  # forward, and backward to maps and to weights
_SEEDS_HELP = (
    f"One training of each cell a seed; left open: 0 to {_MANY_SEEDS - 1}, or three where a training is large."
)


class Options(MethodOptions, ClassifierFlags, SelectionOptions):
    """Flags of search-rho."""

    aliases = {"width": "networks.width", "prune": "race"}

    rhos: Rhos = Field((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), description="The grid; 1 is no filtering, and always in it.")
    networks: SeveralChosen = option(
        (STUDENTS.choose("resnet8"),), "Students, with commas; the choice is made over all of them.", registry=STUDENTS
    )
    seeds: Seeds | None = Field(None, description=_SEEDS_HELP)
    method: Chosen = entry_option(METHODS, "none", METHOD_HELP)
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    race: bool = Field(False, description="Drop a rho that is worse than another beyond --risk, after 3 seeds or more.")
    risk: Risk = Field(0.05, description="With --race: the probability that the best rho may be dropped with.")


@dataclass(frozen=True)
class _Training:
    """One cell's training; picklable, so that worker processes can run it."""

    options: Options
    fakes: Path
    predictor: Path | None

    def __call__(self, cell: Any, report: Any) -> dict[str, Any]:
        from classifiers import train_classifier

        known = self._known()
        source, settings, folder = self._source(cell, known), self._settings(cell), report.folder / "training"
        train_classifier(
            source,
            known.data.val,
            known.data.label_space,
            settings,
            folder,
            known.device,
            known.data.allowed_augmentations,
            known.teacher,
            on_validation=report,
        )
        return self._outcome(source, folder, known)

    def together(self, cells: Sequence[Any], reports: Sequence[Any], folder: Path) -> list[dict[str, Any]]:
        """The same of several cells at once, of one network."""
        from classifiers.group_trainer import Member, train_group

        known = self._known()
        members = [
            Member(self._source(cell, known), self._settings(cell), report.folder / "training", report)
            for cell, report in zip(cells, reports, strict=True)
        ]
        data = known.data
        train_group(
            members, data.val, data.label_space, folder, known.device, data.allowed_augmentations, known.teacher
        )
        return [self._outcome(member.train, member.out, known) for member in members]

    def sizes(self, data: Any) -> dict[str, int]:
        """How many cells of each network are best trained at once."""
        from classifiers.group_trainer import at_once
        from runtime.devices import pick_device

        device, shape = pick_device(self.options.device), data.train.pixels.shape[1:]
        found = {}
        for network in self.options.networks:
            settings = classifier_settings(self.options, network, self.options.method)
            found[network.name] = at_once(settings, shape, data.label_space, device)
        return found

    def _known(self) -> _Known:
        from image_data.fake import open_fakes
        from runtime.devices import pick_device

        device = pick_device(self.options.device)
        teacher = load_predictor(self.predictor, device) if self.predictor else None
        # The fakes were compared with the data when the search began.
        return _Known(load_data(self.options), open_fakes(self.fakes), device, teacher)

    def _settings(self, cell: Any) -> Any:
        network = _network(self.options, cell.student)
        return classifier_settings(self.options, network, self.options.method, seed=cell.seed)

    def _source(self, cell: Any, known: _Known) -> Any:
        return mixed_source(self.options.model_copy(update={"seed": cell.seed}), known.data, known.fakes, cell.rho)

    def _outcome(self, source: Any, folder: Path, known: _Known) -> dict[str, Any]:
        from classifiers.predictor import load_classifier
        from classifiers.scoring import image_errors, outputs

        val, trained = known.data.val, load_classifier(folder, known.device)
        errors = image_errors(outputs(trained.network, val, known.device), val.labels, known.data.label_space)
        return {"errors": errors, "images": len(source), "steps": trained.card["result"]["steps"]}


class _Known(NamedTuple):
    """What all cells share."""

    data: Any
    fakes: Any
    device: Any
    teacher: Any


def run(options: Options) -> dict[str, Any]:
    """Run every cell that has no result yet, then choose."""
    from classifiers.leak_guard import seen_line
    from classifiers.rho_choice import choose, render
    from classifiers.rho_search import Groups, grid, read_results, search
    from commands.support.engine import make_engine
    from image_data.label_meeting import LabelHolder, check_several_classes
    from runtime.devices import set_threads
    from runtime.progress import say

    set_threads(options.workers)
    _check(options)
    data = load_data(options)
    real = LabelHolder("data", data_name(options), data.label_space)
    check_several_classes(real, "search-rho")
    training, parents, others, steps = _training(options, data, real)
    options, why = _with_seeds(options, data, steps)
    cells = grid(options.rhos, [network.name for network in options.networks], options.seeds or ())
    seen = seen_line(data, others, "val")
    race = _race(options)
    needs = {"trainings": len(cells), "of steps": steps, "seeds": list(options.seeds or ()), "why": why}
    unit, scale = ("error, %", 100.0) if data.label_space.kind == "classes" else ("absolute error", 1.0)
    with artefact("search-rho", "rho", options, parents, shared=True, needs=lambda: needs) as output:
        if output.finished:
            _check_format(output.folder)
        else:
            if why:
                say(why)
            groups = Groups(training.together, training.sizes(data))
            search(cells, training, output.folder, race=race, groups=groups, engine=make_engine(options, output.folder))
        results = read_results(cells, output.folder)
        choice = choose(results, race)
        if not output.finished:
            _write(choice, output.folder, options, unit, scale, seen)
    return {
        "search": str(output.folder),
        "rho": choice.rho,
        "resolved": choice.resolved,
        "config": str(output.folder / "choice.yaml"),
        "choice": choice.to_dict(),
        "seen": seen,
        "cost": _cost(cells, results, output.folder),
        "table": render(choice, unit, scale),
    }


def _training(options: Options, data: Any, real: Any) -> tuple[_Training, dict[str, str], Any, int]:
    """What a cell runs, the digests of its inputs, the parts behind them, and the most steps of a cell.

    UserError where they do not fit.
    """
    from classifiers.methods import needs_teacher

    fakes = resolve_input("fakes", options.fakes, options, rho=min(options.rhos))
    dataset = open_matching_fakes(fakes, options, data)
    parents = {"data": data.digest, "fakes": artefact_digest("fakes", fakes), **start_of(options)}
    predictor = resolve_input("predictor", options.predictor, options) if needs_teacher(options) else None
    if predictor:
        check_soft_labels(predictor, real, data.train.labels, data.train.pixels.shape[1:])
        parents["predictor"] = artefact_digest("predictor", predictor)
    others = parts_of_training(options, fakes, predictor)
    checked(options, data, others, test=True)
    _check_trainings(options, data, dataset, predictor)
    settings = classifier_settings(options, options.networks[0], options.method)
    if options.epochs is not None:
        settings = settings.for_images(len(mixed_source(options, data, dataset, 1.0)))
    return _Training(options, fakes, predictor), parents, others, settings.steps


def _write(choice: Any, folder: Path, options: Options, unit: str, scale: float, seen: str) -> None:
    """Plot and choice; choice.yaml last, since it says that the search is finished."""
    from classifiers.rho_choice import explained, write_choice
    from evaluation.report import RhoCurve, write_svg
    from runtime.safe_files import write_sealed_json

    write_svg(RhoCurve.of_choice(choice.to_dict(), f"validation {unit}", scale), folder / "rho.svg")
    said = {"explained": explained(choice, scale), "seen": seen}
    write_sealed_json(folder / "choice.json", {**choice.to_dict(), **said})
    network = options.networks[0]
    scaled = None if network == STUDENTS.choose(network.name) else network.to_json()
    write_choice(choice, folder / "choice.yaml", scaled, scale)


def _check(options: Options) -> None:
    """UserError for what can be refused before any image is read."""
    from classifiers.rho_search import grid

    if options.data == "none":
        raise UserError(
            "search-rho chooses rho by the error on real validation images, and --data none has none; give --data, or "
            "choose a rho yourself (distill --rho)."
        )
    if "seed" in options.model_fields_set:
        raise UserError("--seed would do nothing: every rho is trained with each of --seeds; give that.")
    if "risk" in options.model_fields_set and not options.race:
        raise UserError("--risk is that of a race; add --race, or leave it out.")
    grid(options.rhos, [network.name for network in options.networks], options.seeds or (0,))
    if options.seeds is not None:
        _race(options)


def _race(options: Options) -> Race | None:
    """The race, where one is asked for; UserError where it could drop nothing."""
    from classifiers.rho_race import FIRST_LOOK, Race

    race = Race(options.risk, len(options.seeds or ())) if options.race else None
    if race is not None and not race.looks:
        raise UserError(
            f"--race drops nothing with {race.seeds} seeds, since it first looks after {FIRST_LOOK} and not after the "
            "last; give --seeds 0,1,2,3 or more, or leave --race out."
        )
    return race


def _with_seeds(options: Options, data: Any, steps: int) -> tuple[Options, str]:
    """The options with their seeds, and a line that says how many and why, where they were left open.

    steps: of a cell, at most.
    """
    if options.seeds is not None:
        return options, ""
    import torch

    from classifiers.networks import build_student
    from evaluation.cost import multiply_adds

    shape = data.train.pixels.shape[1:]
    example = torch.zeros(1, *shape)
    adds = max(
        multiply_adds(build_student(network, shape[0], shape[1], data.label_space).eval(), [example])
        for network in options.networks
    )
    adds *= _PASSES * options.batch_size * steps
    seeds = tuple(range(_MANY_SEEDS if adds <= _SMALL_TRAINING else _FEW_SEEDS))
    size = "small" if adds <= _SMALL_TRAINING else "large"
    why = (
        f"seeds 0 to {seeds[-1]}: a training is {size}, {adds / 1e12:.2g} x 10^12 multiply-adds "
        f"({_MANY_SEEDS} seeds up to {_SMALL_TRAINING / 1e12:g} x 10^12, else {_FEW_SEEDS}; --seeds sets others)"
    )
    return options.model_copy(update={"seeds": seeds}), why


def _check_format(folder: Path) -> None:
    """UserError where an earlier version has made a search."""
    from classifiers.rho_choice import FORMAT
    from runtime.safe_files import read_sealed_json

    if read_sealed_json(folder / "choice.json").get("format") != FORMAT:
        raise UserError(
            f"{folder} is a search of an earlier version, whose bar covered seeds alone; its choice.yaml still serves "
            "distill --config; to search again give search-rho another --out."
        )


def _cost(cells: Any, results: Any, folder: Path) -> dict[str, Any]:
    """What was run beside the full grid; of cells that were not run the same as of the others of their rho.

    The full grid's seconds are those of as many steps.
    """
    from classifiers.rho_search import read_costs

    steps = {result.cell.rho: int(result.details["steps"]) for result in results}
    whole: dict[str, Any] = {"cells": len(cells), "steps": sum(steps[cell.rho] for cell in cells)}
    spent: dict[str, Any] = {"cells": len(results), "steps": sum(steps[result.cell.rho] for result in results)}
    for name, seconds in read_costs(cells, folder).items():
        spent[name], whole[name] = round(seconds, 1), round(seconds * whole["steps"] / spent["steps"], 1)
    return {"spent": spent, "full_grid": whole}


def _network(options: Options, name: str) -> Choice:
    return next(network for network in options.networks if network.name == name)


def _check_trainings(options: Options, data: Any, fakes: Any, predictor: Path | None) -> None:
    """UserError where one of the cells could not be trained: fakes for the smallest rho, each network."""
    import torch

    from classifiers import check_training

    source = mixed_source(options, data, fakes, min(options.rhos))
    teacher = load_predictor(predictor, torch.device("cpu")) if predictor else None
    for network in options.networks:
        settings = classifier_settings(options, network, options.method)
        check_training(source, data.val, data.label_space, settings, data.allowed_augmentations, teacher)


def show(result: dict[str, Any]) -> str:
    """The table of the grid, its cost, and what to do with the choice."""
    use = f"use it: python cli.py distill --config {shlex.quote(result['config'])}"
    lines = [result["table"], result["seen"], use]
    if "cost" in result:
        lines.insert(1, _cost_line(**result["cost"]))
    return "\n".join(lines)


def _cost_line(spent: dict[str, Any], full_grid: dict[str, Any]) -> str:
    about = "" if spent["cells"] == full_grid["cells"] else "about "
    return (
        f"cost: {spent['cells']} trainings, {spent['steps']:,} steps, {spent['cpu_seconds']:,.0f} CPU s "
        f"({spent['wall_seconds']:,.0f} s of workers' time); the full grid: {full_grid['cells']} trainings, "
        f"{full_grid['steps']:,} steps, {about}{full_grid['cpu_seconds']:,.0f} CPU s"
    )

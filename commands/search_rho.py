"""Search the filtering quantile rho: one student for each (rho, network, seed), scored on validation images.

Neither the GAN, nor the density ratio, nor the filter's predictor has seen the validation images.  Every cell is a
folder that is written whole, so the search can be killed and continued, and several processes may share it.  The
choice is the largest rho within one standard error of the best, written as choice.yaml for `distill --config`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from classifiers.networks import STUDENTS
from commands.support.builders import load_data, load_predictor
from commands.support.classifier_flags import METHOD_HELP, ClassifierFlags, MethodOptions, classifier_settings
from commands.support.lineage import checked, parts_of_training
from commands.support.options import Chosen, Rhos, Seeds, SeveralChosen, entry_option, option
from commands.support.selection import SelectionOptions, check_soft_labels, data_name, mixed_source, open_matching_fakes
from commands.support.workspace import artefact, artefact_digest, resolve_input
from runtime.errors import UserError
from runtime.registry import Choice
from training.methods import METHODS


class Options(MethodOptions, ClassifierFlags, SelectionOptions):
    """Flags of search-rho."""

    aliases = {"width": "networks.width"}

    rhos: Rhos = Field((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), description="The grid; 1 is no filtering.")
    networks: SeveralChosen = option(
        (STUDENTS.choose("resnet8"),), "Students, with commas; the choice is made over all of them.", registry=STUDENTS
    )
    seeds: Seeds = Field((0, 1, 2), description="One training of each cell a seed.")
    method: Chosen = entry_option(METHODS, "none", METHOD_HELP)
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    prune: bool = Field(False, description="Stop cells that fall behind the median.")


@dataclass(frozen=True)
class _Training:
    """One cell's training; picklable, so that worker processes can run it."""

    options: Options
    fakes: Path
    predictor: Path | None

    def __call__(self, cell: Any, report: Any) -> dict[str, Any]:
        from classifiers import train_classifier
        from image_data.fake import open_fakes
        from runtime.devices import pick_device

        options = self.options
        device = pick_device(options.device)
        data = load_data(options)
        fakes = open_fakes(self.fakes)  # compared with the data when the search began
        settings = classifier_settings(options, _network(options, cell.student), options.method, seed=cell.seed)
        source = mixed_source(options.model_copy(update={"seed": cell.seed}), data, fakes, cell.rho)
        result = train_classifier(
            source,
            data.val,
            data.label_space,
            settings,
            report.folder / "training",
            device,
            data.allowed_augmentations,
            load_predictor(self.predictor, device) if self.predictor else None,
            on_validation=report,
        )
        return {"score": result["val_score"], "images": len(source), "steps": result["steps"]}


def run(options: Options) -> dict[str, Any]:
    """Run every cell that has no result yet, then choose."""
    from classifiers.leak_guard import seen_line
    from classifiers.methods import needs_teacher
    from classifiers.rho_choice import choose, render, write_choice
    from classifiers.rho_search import grid, read_results, search
    from commands.support.engine import make_engine
    from evaluation.report import RhoCurve, write_svg
    from image_data.label_meeting import LabelHolder, check_several_classes
    from runtime.devices import set_threads
    from runtime.safe_files import write_sealed_json

    set_threads(options.workers)
    cells = grid(options.rhos, [network.name for network in options.networks], options.seeds)
    if options.data == "none":
        raise UserError(
            "search-rho chooses rho by the error on real validation images, and --data none has none; give --data, or "
            "choose a rho yourself (distill --rho)."
        )
    data = load_data(options)
    real = LabelHolder("data", data_name(options), data.label_space)
    check_several_classes(real, "search-rho")
    fakes = resolve_input("fakes", options.fakes, options, rho=min(options.rhos))
    dataset = open_matching_fakes(fakes, options, data)
    parents = {"data": data.digest, "fakes": artefact_digest("fakes", fakes)}
    predictor = resolve_input("predictor", options.predictor, options) if needs_teacher(options) else None
    if predictor:
        check_soft_labels(predictor, real, data.train.labels, data.train.pixels.shape[1:])
        parents["predictor"] = artefact_digest("predictor", predictor)
    others = parts_of_training(options, fakes, predictor)
    checked(options, data, others, test=True)
    seen = seen_line(data, others, "val")
    _check_trainings(options, data, dataset, predictor)
    with artefact("search-rho", "rho", options, parents, shared=True) as output:
        if not output.finished:
            search(
                cells,
                _Training(options, fakes, predictor),
                output.folder,
                prune=options.prune,
                engine=make_engine(options, output.folder),
            )
        choice = choose(read_results(cells, output.folder))
        unit, scale = ("error, %", 100.0) if data.label_space.kind == "classes" else ("absolute error", 1.0)
        if not output.finished:
            curve = RhoCurve.of_choice(choice.to_dict(), f"validation {unit}", scale)
            write_svg(curve, output.folder / "rho.svg")
            write_sealed_json(output.folder / "choice.json", {**choice.to_dict(), "seen": seen})
            network = options.networks[0]
            scaled = None if network == STUDENTS.choose(network.name) else network.to_json()
            write_choice(choice, output.folder / "choice.yaml", scaled)
    return {
        "search": str(output.folder),
        "rho": choice.rho,
        "config": str(output.folder / "choice.yaml"),
        "choice": choice.to_dict(),
        "seen": seen,
        "table": render(choice, unit, scale),
    }


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
    """The table of the grid, and what to do with the choice."""
    use = f"use it: python cli.py distill --config {shlex.quote(result['config'])}"
    return f"{result['table']}\n{result['seen']}\n{use}"

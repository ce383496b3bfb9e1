"""Compare distillation methods on training sets: real images, real and fakes, fakes alone; over networks and seeds.

\b
    methods: [none, blkd, dkd]
    sets: {real: {}, real + fakes: {rho: 0.9}}
    seeds: [0, 1, 2]

Every cell (set, network, method, seed) is one `distill` in a folder of its own, so that the comparison can be killed
and continued, and several processes and machines may share it.  Cells of one seed are compared in pairs.  Nothing is
chosen on test images: each cell opens them once, at its end.  With `parts` each seed trains its own teacher, filter,
predictor and fakes; without, all seeds share those given.  With `learning_rates` each row's rate is chosen on the
first seed's validation images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from classifiers.networks import STUDENTS
from commands.support.builders import load_data
from commands.support.classifier_flags import ClassifierFlags, start_of
from commands.support.compared import (
    BASELINE,
    RESULT_FILE,
    TRAINING_SETS,
    ComparedCell,
    Parts,
    TrainingSets,
    by_epochs,
    check_options,
    distill_options,
    folder_name,
    label,
    options_of,
    place,
    unsettled,
)
from commands.support.compared_parts import SeedParts, check_sets
from commands.support.options import Chosen, LearningRates, Seeds, SeveralChosen, entry_option, option, plain
from commands.support.selection import SelectionOptions
from commands.support.workspace import EMBEDDED, artefact, artefact_digest, resolve_input
from runtime.bounds import Positive
from runtime.errors import UserError
from training.methods import METHODS

_SETS = {name: TRAINING_SETS[name] for name in ("real", "real + fakes")}
_SETS_HELP = "Names with distill's options in YAML; real, real + fakes, fakes are known."
_PARTS_HELP = "train-teacher, train-classifier, fit-filter, sample, search-rho, with options in YAML, for each seed."
_RATES_HELP = "Choose each row's rate among these on the first seed's validation images; none: --lr for all."
_EPOCHS_HELP = "A second column: each row once more for so many epochs of its own images, as published work trains."
_METHODS = (METHODS.choose("none"), METHODS.choose("blkd"))
Sets = Mapping[str, Mapping[str, Any]]


class Options(ClassifierFlags, SelectionOptions):
    """Flags of compare."""

    methods: SeveralChosen = option(_METHODS, "Methods with commas, the baseline first.", registry=METHODS)
    networks: SeveralChosen = option((STUDENTS.choose("resnet8"),), "Students, with commas.", registry=STUDENTS)
    sets: TrainingSets = Field(_SETS, description=_SETS_HELP)
    seeds: Seeds = Field((0, 1, 2), description="One training of each cell a seed.")
    parts: Parts = Field({}, description=_PARTS_HELP)
    learning_rates: LearningRates = Field((), description=_RATES_HELP)
    epochs: Positive | None = Field(None, description=_EPOCHS_HELP)
    beside: Chosen = entry_option(METHODS, "none", "What methods on features are added to: none or blkd.")
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    outputs: Path | None = Field(None, description="Folder of score --views, in place of the running teacher.")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that is kept, where a set says no other.")


def run(options: Options) -> dict[str, Any]:
    """Run every cell that has no result yet, then write table, plot and page."""
    from commands.reporting.comparison_page import write_comparison
    from commands.support.compared_fit import check_fit
    from commands.support.engine import make_engine
    from runtime.devices import set_threads
    from runtime.safe_files import read_sealed_json
    from runtime.shared_cells import share_cells

    set_threads(options.workers)
    _check(options)
    data = load_data(options)
    inputs = {} if options.parts else _inputs(options)
    if options.outputs is None:  # else each cell asks the stored outputs themselves
        check_fit(options, data, inputs.get("predictor"))
    parents = _parents(options, inputs, data.digest)
    with artefact("compare", "comparison", options, parents, shared=True, needs=lambda: _needs(options)) as output:
        if not output.finished:
            engine = make_engine(options, output.folder)
            if options.parts:
                seeds = [SeedParts(seed, output.folder, options, _common(options)) for seed in options.seeds]
                share_cells("parts", seeds, SeedParts.place, SeedParts.is_finished, SeedParts.make, engine)
            rates: dict[Any, float] = {}
            for sets in _stages(options):
                rates |= _rates(options, output.folder, sets, inputs, engine)
                cells = [*_cells(options, output.folder, sets, inputs, rates)]
                cells += [by_epochs(cell, options.epochs) for cell in cells] if options.epochs else []
                share_cells("compare", cells, ComparedCell.place, ComparedCell.is_finished, ComparedCell.run, engine)
            write_comparison(
                output.folder, [*_cells(options, output.folder, options.sets, inputs, rates)], options, _covers(options)
            )
        result = read_sealed_json(output.folder / RESULT_FILE)
    return {"comparison": str(output.folder), **result}


def _inputs(options: Options) -> dict[str, Path]:
    """Fakes and predictor that all seeds share, made first where the embedded default lacks them."""
    inputs, sets = {}, options.sets.values()
    if any(one.get("train_on", "mixed") != "real" and "fakes" not in one for one in sets):
        inputs["fakes"] = resolve_input("fakes", options.fakes, options, rho=options.rho)
    taught = any(METHODS.get(method.name).requires & {"logits", "features"} for method in options.methods)
    if taught and any(not {"predictor", "outputs"} & set(one) for one in sets):
        kind = "predictor" if options.outputs is None else "outputs"
        inputs[kind] = resolve_input(kind, getattr(options, kind), options)
    return inputs


def _parents(options: Options, inputs: Mapping[str, Path], data: str) -> dict[str, str]:
    """Digests of what goes in: of all rows, and of one set alone.  data: that of the images."""
    parents = {"data": data, **start_of(options)}
    parents |= {kind: artefact_digest(kind, folder) for kind, folder in inputs.items()}
    for name, training_set in options.sets.items():
        for key, kind in (*((one, one) for one in ("fakes", "predictor", "outputs")), ("init_from", "predictor")):
            if training_set.get(key) not in {None, BASELINE}:
                parents[f"{key} of {name}"] = artefact_digest(kind, Path(training_set[key]))
    return parents


def _needs(options: Options) -> dict[str, Any]:
    rows = len(options.methods) * len(options.networks) * len(options.sets)
    trainings = rows * (len(options.seeds) * (1 if options.epochs is None else 2) + len(options.learning_rates))
    return {"trainings": trainings, "of steps": options.steps, "seeds with parts of their own": bool(options.parts)}


def _check(options: Options) -> None:
    """UserError, before any work, for options of a set, method or part that its command would refuse."""
    if options.data == "none":
        raise UserError("compare compares errors on real test images, and --data none has none; give --data.")
    if "seed" in options.model_fields_set:
        raise UserError("--seed would do nothing: every row is trained with each of --seeds; give that.")
    if options.outputs is not None and options.parts:
        raise UserError("--outputs are of one predictor, and --parts makes one for each seed; leave one of them out.")
    if options.learning_rates and "lr" in options.model_fields_set:
        raise UserError("--lr is for all rows, and --learning-rates chooses for each; give one of them.")
    common = _common(options)
    for name, training_set in options.sets.items():
        for method in options.methods:
            given = unsettled(distill_options(common, training_set, method))
            check_options("distill", given, f"--sets {name}, {method}")
    check_sets(options, common)
    for command, given in options.parts.items():
        check_options(command, given, f"--parts {command}")
    names = [label(method, METHODS) for method in options.methods], [label(one, STUDENTS) for one in options.networks]
    if any(len(set(several)) < len(several) for several in (*names, options.seeds)):
        raise UserError("a method, network or seed is named twice; give each once.")
    if len({folder_name(name) for name in options.sets}) < len(options.sets):
        raise UserError("two --sets differ in signs alone, and would share a folder; name one otherwise.")
    if options.parts and options.data in EMBEDDED and max(options.seeds) > 2:
        raise UserError(f"--parts: {options.data} has the folds 0, 1 and 2, one for each seed; give --seeds 0,1,2.")


def _common(options: Options) -> dict[str, Any]:
    """What all cells are given: compare's options that distill has too."""
    own = {"out", "workers", "engine", "ray_address", "json", "dry_run", "network", "method", "seed", "epochs"}
    known = {info.alias or name for name, info in options_of("distill").model_fields.items()} - own
    return {name: value for name, value in plain(options).items() if name in known and value is not None}


def _stages(options: Options) -> list[Sets]:
    """The sets from scratch, then those that are fine-tuned from the baseline's students."""
    tuned = {name: one for name, one in options.sets.items() if one.get("init_from") == BASELINE}
    return [one for one in ({name: options.sets[name] for name in options.sets if name not in tuned}, tuned) if one]


def _rates(options: Options, folder: Path, sets: Sets, inputs: Mapping[str, Path], engine: Any) -> dict[Any, float]:
    """The learning rate of each row of these sets; {} where all have the same."""
    from commands.support.compared_rates import RateCell, chosen, rate_cells
    from runtime.shared_cells import share_cells

    if not options.learning_rates:
        return {}
    open_sets = {name: one for name, one in sets.items() if "lr" not in one}  # a set that says its rate keeps it
    first = [cell for cell in _cells(options, folder, open_sets, inputs, {}) if cell.seed == options.seeds[0]]
    trials = rate_cells(first, options.learning_rates, folder)
    cells = [trial for several in trials.values() for trial in several]
    share_cells("learning rates", cells, RateCell.place, RateCell.is_finished, RateCell.run, engine)
    return chosen(trials)


def _cells(
    options: Options, folder: Path, sets: Sets, inputs: Mapping[str, Path], rates: Mapping[Any, float]
) -> Iterator[ComparedCell]:
    """The cells of these sets, seed by seed, so that an unfinished comparison has compared every row."""
    shared = _common(options) | {name: str(path) for name, path in inputs.items()}
    for seed in options.seeds:
        parts = SeedParts(seed, folder, options, shared) if options.parts else None
        for network in options.networks:
            for name, training_set in sets.items():
                settled = parts.given() | parts.settled(name) if parts else dict(training_set)
                if settled.get("init_from") == BASELINE:
                    settled["init_from"] = str(_baseline(options, folder, network, seed))
                for method in options.methods:
                    labels = name, label(network, STUDENTS), label(method, METHODS)
                    out = place(folder, *labels, seed) / "training"
                    given = distill_options(shared, settled, method) | {"network": network.to_json(), "seed": seed}
                    cell = ComparedCell(*labels, seed, given | {"out": str(out)})
                    yield cell.at_rate(rates.get(cell.row))


def _baseline(options: Options, folder: Path, network: Any, seed: int) -> Path:
    """The student of the first method on the first set."""
    labels = next(iter(options.sets)), label(network, STUDENTS), label(options.methods[0], METHODS)
    return place(folder, *labels, seed) / "training"


def _covers(options: Options) -> str:
    if options.parts:
        split = "its fold's test images" if options.data in EMBEDDED else "the same test images"
        return f"labelled images, teacher, filter, predictor and training of its own, on {split}"
    return "the training alone: teacher, filter, predictor, labelled and test images are the same for all"


def show(result: dict[str, Any]) -> str:
    """The table, and where the page lies."""
    page = Path(result["comparison"]) / "index.html"
    return f"{result['table']}\n{result['caption']}\n{result['verdict']}\n{result['protocol']}\npage: {page}"

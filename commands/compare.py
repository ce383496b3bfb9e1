"""Compare distillation methods on training sets: real images, real and fakes, fakes alone; over networks and seeds.

    methods: [none, blkd, dkd]
    sets: {real: {}, real + fakes: {rho: 0.9}}
    seeds: [0, 1, 2]

Every cell (set, network, method, seed) is one `distill` in a folder of its own, so that the comparison can be killed
and continued, and several processes and machines may share it.  Cells of one seed are compared in pairs.  Nothing is
chosen on test images: each cell opens them once, at its end.  With `parts` each seed trains its own teacher, filter,
predictor and fakes; without, all seeds share those given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from classifiers.networks import STUDENTS
from commands.support.builders import load_data
from commands.support.classifier_flags import ClassifierFlags, check_length, start_of
from commands.support.compared import (
    RESULT_FILE,
    TRAINING_SETS,
    ComparedCell,
    Parts,
    TrainingSets,
    check_options,
    distill_options,
    label,
    options_of,
    place,
)
from commands.support.options import Chosen, Seeds, SeveralChosen, entry_option, option, plain
from commands.support.selection import SelectionOptions
from commands.support.workspace import EMBEDDED, artefact, artefact_digest, call, resolve_input
from runtime.errors import UserError
from training.methods import METHODS

_SETS = {name: TRAINING_SETS[name] for name in ("real", "real + fakes")}
_SETS_HELP = "Names with distill's options in YAML; real, real + fakes, fakes are known."
_PARTS_HELP = "train-teacher, train-classifier, fit-filter, sample, with options in YAML: each seed makes its own."
_METHODS = (METHODS.choose("none"), METHODS.choose("blkd"))


class Options(ClassifierFlags, SelectionOptions):
    """Flags of compare."""

    methods: SeveralChosen = option(_METHODS, "Methods with commas, the baseline first.", registry=METHODS)
    networks: SeveralChosen = option((STUDENTS.choose("resnet8"),), "Students, with commas.", registry=STUDENTS)
    sets: TrainingSets = Field(_SETS, description=_SETS_HELP)
    seeds: Seeds = Field((0, 1, 2), description="One training of each cell a seed.")
    parts: Parts = Field({}, description=_PARTS_HELP)
    beside: Chosen = entry_option(METHODS, "none", "What methods on features are added to: none or blkd.")
    predictor: Path | None = Field(None, description="Folder of the soft labels' teacher.")
    outputs: Path | None = Field(None, description="Folder of score --views, in place of the running teacher.")
    rho: float = Field(0.9, gt=0, le=1, description="Share of the fakes that is kept, where a set says no other.")


def run(options: Options) -> dict[str, Any]:
    """Run every cell that has no result yet, then write table, plot and page."""
    from commands.reporting.comparison_page import write_comparison
    from commands.support.engine import make_engine
    from runtime.devices import set_threads
    from runtime.safe_files import read_sealed_json
    from runtime.shared_cells import share_cells

    set_threads(options.workers)
    _check(options)
    inputs = {} if options.parts else _inputs(options)
    parents = {"data": load_data(options).digest, **start_of(options)}
    parents |= {kind: artefact_digest(kind, folder) for kind, folder in inputs.items()}
    count = len(options.methods) * len(options.networks) * len(options.sets) * len(options.seeds)
    length = {"of steps": options.steps} if options.epochs is None else {"of epochs": options.epochs}
    needs = {"trainings": count, **length, "seeds with parts of their own": bool(options.parts)}
    with artefact("compare", "comparison", options, parents, shared=True, needs=lambda: needs) as output:
        if not output.finished:
            engine = make_engine(options, output.folder)
            if options.parts:
                seeds = [_Parts(seed, output.folder, options) for seed in options.seeds]
                share_cells("parts", seeds, _Parts.place, _Parts.is_finished, _Parts.make, engine)
            cells = [cell for seed in options.seeds for cell in _cells(options, output.folder, seed, inputs)]
            share_cells("compare", cells, ComparedCell.place, ComparedCell.is_finished, ComparedCell.run, engine)
            write_comparison(output.folder, cells, _covers(options))
        result = read_sealed_json(output.folder / RESULT_FILE)
    return {"comparison": str(output.folder), **result}


def _inputs(options: Options) -> dict[str, Path]:
    """Fakes and predictor that all seeds share, made first where the embedded default lacks them."""
    inputs = {}
    if any(options_of_set.get("train_on", "mixed") != "real" for options_of_set in options.sets.values()):
        inputs["fakes"] = resolve_input("fakes", options.fakes, options, rho=options.rho)
    if any(METHODS.get(method.name).requires & {"logits", "features"} for method in options.methods):
        kind = "predictor" if options.outputs is None else "outputs"
        inputs[kind] = resolve_input(kind, getattr(options, kind), options)
    return inputs


def _check(options: Options) -> None:
    """UserError, before any work, for options of a set, method or part that its command would refuse."""
    if options.data == "none":
        raise UserError("compare compares errors on real test images, and --data none has none; give --data.")
    if "seed" in options.model_fields_set:
        raise UserError("--seed would do nothing: every row is trained with each of --seeds; give that.")
    if options.outputs is not None and options.parts:
        raise UserError("--outputs are of one predictor, and --parts makes one for each seed; leave one of them out.")
    check_length(options)
    common = _common(options)
    for name, training_set in options.sets.items():
        for method in options.methods:
            check_options("distill", distill_options(common, training_set, method), f"--sets {name}, {method}")
    for command, given in options.parts.items():
        check_options(command, given, f"--parts {command}")
    names = [label(method, METHODS) for method in options.methods], [label(one, STUDENTS) for one in options.networks]
    if any(len(set(several)) < len(several) for several in (*names, options.seeds)):
        raise UserError("a method, network or seed is named twice; give each once.")
    if options.parts and options.data in EMBEDDED and max(options.seeds) > 2:
        raise UserError(f"--parts: {options.data} has the folds 0, 1 and 2, one for each seed; give --seeds 0,1,2.")


def _common(options: Options) -> dict[str, Any]:
    """What all cells are given: compare's options that distill has too."""
    own = {"out", "workers", "engine", "ray_address", "json", "dry_run", "network", "method", "seed"}
    own |= {"steps"} if options.epochs is not None else set()
    known = {info.alias or name for name, info in options_of("distill").model_fields.items()} - own
    return {name: value for name, value in plain(options).items() if name in known and value is not None}


def _cells(options: Options, folder: Path, seed: int, inputs: Mapping[str, Path]) -> list[ComparedCell]:
    """The cells of one seed."""
    common = _common(options) | {name: str(path) for name, path in inputs.items()} | {"seed": seed}
    if options.parts:
        common |= _Parts(seed, folder, options).given()
    cells = []
    for network in options.networks:
        for name, training_set in options.sets.items():
            for method in options.methods:
                labels = name, label(network, STUDENTS), label(method, METHODS)
                out = place(folder, *labels, seed) / "training"
                given = distill_options(common, training_set, method) | {"network": network.to_json(), "out": str(out)}
                cells.append(ComparedCell(*labels, seed, given))
    return cells


class _Parts:
    """The teacher, predictor, filter and fakes of one seed, in a workspace of its own."""

    def __init__(self, seed: int, folder: Path, options: Options) -> None:
        self.seed, self.workspace, self._options = seed, folder / "parts" / f"seed{seed}", options

    def given(self) -> dict[str, Any]:
        """The options that name them and their real images."""
        common = {"workspace": str(self.workspace), "data": self._options.data, "data_seed": self.seed}
        if self._options.data in EMBEDDED:
            common["fold"] = self.seed
        if self._options.real_per_class is not None:
            common["real_per_class"] = self._options.real_per_class
        return common

    def place(self) -> Path:
        """Where processes claim them."""
        return self.workspace

    def is_finished(self) -> bool:
        """Whether the last one is there."""
        return (self.workspace / "finished").is_file()

    def make(self) -> None:
        """Each by its ordinary command; what is there is passed over."""
        from runtime.atomic import write_text
        from runtime.progress import silenced

        for command, given in self._options.parts.items():
            common = self.given() if command != "sample" else {"workspace": str(self.workspace)}
            with silenced():
                call(command, **{**common, "seed": self.seed, **given})
        write_text(self.workspace / "finished", "\n".join(self._options.parts) + "\n")


def _covers(options: Options) -> str:
    if options.parts:
        split = "its fold's test images" if options.data in EMBEDDED else "the same test images"
        return f"labelled images, teacher, filter, predictor and training of its own, on {split}"
    return "the training alone: teacher, filter, predictor, labelled and test images are the same for all"


def show(result: dict[str, Any]) -> str:
    """The table, and where the page lies."""
    page = Path(result["comparison"]) / "index.html"
    return f"{result['table']}\n{result['caption']}\n{result['verdict']}\n{result['protocol']}\npage: {page}"

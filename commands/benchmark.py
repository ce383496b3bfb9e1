"""How fast: without WHAT, parameters, multiply-adds and latency of the generators at hand.

`sampling`: end to end against the bare forward passes, with the workspace's teacher, filter and predictor (or those
given), and without a teacher with untrained networks of two sizes; `--memory`: peak memory of a small and a large run.
`reading`: shuffled reading for training against a tensor in memory.  `verify`: checking a dataset against the disk and
the hashes.  `distilling`: stored outputs against a running teacher, processor time and error.  `training`: the
classifiers' trainer against a plain loop by hand.  What is made for measuring lies in a temporary folder (inside --out,
where given), which is removed.
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from commands.support.builders import MakeSamplingParts, load_generator
from commands.support.dry_run import work_begins
from commands.support.options import SharedOptions
from commands.support.teachers import ChosenTeacher, TeacherOptions, check_fits
from commands.support.workspace import SEAL, resolve_input
from runtime.errors import UserError

POSITIONAL = "what"
_USES = {  # options that only some measurements know
    "student": (None,),
    "teacher": (None, "sampling"),
    "filter": ("sampling",),
    "predictor": ("sampling",),
    "label_map": ("sampling",),
    "image_size": ("sampling",),
    "image_channels": ("sampling",),
    "memory": ("sampling",),
    "count": ("sampling", "verify"),
    "small": ("sampling", "reading", "verify", "distilling", "training"),
    "fakes": ("verify",),
}
_LABELS = 10  # of real networks, at most


class Options(TeacherOptions, SharedOptions):
    """Flags of benchmark."""

    what: Literal["sampling", "reading", "verify", "distilling", "training"] | None = Field(
        None, description="What to measure."
    )
    student: Path | None = Field(None, description="Folder of the student generator.")
    filter: str | None = Field(None, description="sampling: folder of the filter, or none.")
    predictor: str | None = Field(None, description="sampling: folder of the predictor, or none.")
    fakes: Path | None = Field(None, description="verify: folder of the fakes (a dataset of noise by default).")
    count: int | None = Field(None, ge=10, description="sampling, verify: fakes of a run.")
    small: bool = Field(False, description="A few seconds; the numbers then say little.")
    memory: bool = Field(False, description="sampling: peak memory at 20,000 and at --count fakes.")


def run(options: Options) -> dict[str, Any]:
    """Measure what was asked for."""
    check(options)
    if options.dry_run and options.what in (None, "sampling"):
        _check_networks(options)
    work_begins(options)
    if options.what is None:
        return _networks(options)
    measures = {
        "sampling": _sampling,
        "reading": _reading,
        "verify": _verifying,
        "distilling": _distilling,
        "training": _training,
    }
    measure = measures[options.what]
    return {"measured": options.what, "tables": measure(options)}


def check(options: Options) -> None:
    """UserError naming an option that this measurement does not know."""
    for name, users in _USES.items():
        if getattr(options, name) not in (None, False) and options.what not in users:
            known = ", ".join(f"`benchmark {user or ''}`".replace(" `", "`") for user in users)
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for {known}, and this measures {options.what or 'networks'}; leave it out.")
    if options.memory:
        given = [name for name in ("teacher", "filter", "predictor") if getattr(options, name) is not None]
        if given:
            raise UserError(f"--memory measures built-in networks, so --{given[0]} is of no use; leave it out.")
    if options.out is not None and not options.out.is_dir():
        raise UserError(f"--out {options.out} is no folder; give one in which a temporary folder can be made.")


def _check_networks(options: Options) -> None:
    """Refuse what measuring them would refuse."""
    if options.what is None:
        for kind in ("teacher", "student"):
            _generator(kind, options, "cpu")
    elif options.teacher is not None or _is_there("teacher", options):
        _parts(ChosenTeacher(options), options)


def _networks(options: Options) -> dict[str, Any]:
    from evaluation.cost import generator_costs
    from runtime.devices import pick_device, set_threads

    device = pick_device(options.device)
    threads = set_threads(options.workers)
    costs = generator_costs({kind: _generator(kind, options, device) for kind in ("teacher", "student")})
    return {"threads": threads, "device": str(device), "cost": costs}


def _generator(kind: str, options: Options, device: Any) -> Any:
    given = getattr(options, kind)
    if given is None and not _is_there(kind, options):
        return None
    return load_generator(resolve_input(kind, given, options), device)


def _is_there(kind: str, options: Options) -> bool:
    return (options.workspace / kind / "latest" / SEAL[kind]).is_file()


def _sampling(options: Options) -> dict[str, Any]:
    from dataclasses import replace

    from benchmarks.end_to_end import FEW, MANY, compare, memory_growth
    from benchmarks.untrained import CASES
    from runtime.devices import pick_device

    if options.memory:
        few, many = (500, 2_000) if options.small else (FEW, MANY)
        many = options.count or many
        if many <= few:
            raise UserError(f"--count {many} is no more than the {few} fakes that it is compared with; give more.")
        return {"memory": memory_growth(few, many, options.out)}
    if options.teacher is not None or _is_there("teacher", options):
        return {"these networks": _real_networks(options)}
    for kind in ("filter", "predictor"):
        if getattr(options, kind) is not None:
            raise UserError(f"--{kind} goes with a teacher, and {options.workspace} has none; give --teacher too.")
    device = str(pick_device(options.device))
    tables = {}
    for case in CASES[:1] if options.small else CASES:
        plan = case.plan(options.count or (200 if options.small else None))
        case, rounds = replace(case, device=device), 1 if options.small else 3
        settings = replace(case.settings(), pilot_candidates=64) if options.small else case.settings()
        table = compare(case, plan, settings, rounds, options.out)
        tables[case.name] = {"networks": case.describe(), **table}
    return tables


def _real_networks(options: Options) -> dict[str, Any]:
    """The workspace's (or the given) teacher, filter and predictor, as `sample` uses them."""
    import numpy as np

    from benchmarks.end_to_end import compare, sized_plan
    from teacher_sampler.sampling.settings import SamplerSettings

    teacher = ChosenTeacher(options)
    folders = _parts(teacher, options)
    make_parts = MakeSamplingParts(
        teacher.reference, folders["filter"], folders["predictor"], options.device, adaptation=teacher.adaptation
    )
    space: Any = teacher.label_space
    labels = getattr(teacher.teacher, "labels", None)  # ready images know which they have
    if labels is None:
        labels = np.arange(space.width) if space.kind == "classes" else np.linspace(space.low, space.high, _LABELS)
    if len(labels) > _LABELS:  # evenly spread; each label costs a pilot
        labels = labels[np.linspace(0, len(labels) - 1, _LABELS).astype(np.int64)]
    count = options.count or (10 * len(labels) if options.small else None)
    plan, settings = sized_plan(make_parts(), labels, SamplerSettings(), count)
    networks = [teacher.card.architecture, *(f"{kind} {folder or 'none'}" for kind, folder in folders.items())]
    table = compare(make_parts, plan, settings, 1 if options.small else 5, options.out)
    return {"networks": ", ".join(networks), **table}


def _parts(teacher: ChosenTeacher, options: Options) -> dict[str, Path | None]:
    """The filter and the predictor to sample with, where they are."""
    folders: dict[str, Path | None] = {}
    for kind in ("filter", "predictor"):
        given = getattr(options, kind)
        folders[kind] = None
        if given != "none" and (given is not None or _is_there(kind, options)):
            folder: Path = resolve_input(kind, given, options)
            check_fits(kind, folder, teacher)
            folders[kind] = folder
    return folders


def _reading(options: Options) -> dict[str, Any]:
    from benchmarks.training_reads import SIZES, SMALL, compare

    tables = {}
    rounds, steps = (1, 2) if options.small else (3, 40)
    for count, channels, size in SMALL if options.small else SIZES:
        tables[f"{channels} x {size} x {size}"] = compare(count, channels, size, rounds, steps, options.out)
    return tables


def _verifying(options: Options) -> dict[str, Any]:
    from benchmarks.untrained import noise_dataset
    from benchmarks.verifying import COUNT, SMALL, compare

    if options.fakes is not None and options.count is not None:
        raise UserError(
            "--count is for a dataset of noise, and --fakes names one that is there; leave one of them out."
        )
    rounds = 1 if options.small else 3
    with tempfile.TemporaryDirectory(dir=options.out) if options.fakes is None else nullcontext("") as name:
        count = options.count or (SMALL if options.small else COUNT)
        folder = noise_dataset(Path(name) / "f", count, 3, 32) if options.fakes is None else options.fakes
        return {str(options.fakes or f"{count} images of noise"): compare(folder, rounds)}


def _training(options: Options) -> dict[str, Any]:
    from benchmarks.training import compare
    from runtime.devices import set_threads

    set_threads(1)
    return compare(options.small, options.out)


def _distilling(options: Options) -> dict[str, Any]:
    from benchmarks.distilling import compare
    from runtime.devices import set_threads

    set_threads(1)
    return compare(options.small, options.out)


def show(result: dict[str, Any]) -> str:
    """The tables."""
    from evaluation.cost import cost_text

    if "tables" not in result:
        table = cost_text(result["cost"]) or "nothing to measure; give --teacher or --student"
        return f"{result['threads']} threads, {result['device']}\n{table}"
    from benchmarks.measuring import table_text

    return "\n\n".join(f"{result['measured']}: {name}\n{table_text(rows)}" for name, rows in result["tables"].items())

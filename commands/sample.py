"""Sample a teacher through the filter into a dataset of fakes: sealed HDF5 shards and a manifest.

`--nfake-per-class N --rho R` accepts ceil(N / R) of each class, so that N of lowest teacher error remain after the
filter.  `--filter none` accepts everything, `--predictor none` measures no errors: no real image is needed then.
The same command continues after any stop, with any number of workers, to the same bytes.  `--out DIR --extend` with
a larger number lets a dataset grow: its shards stay, and it can be read as it was until the new ones are there.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from commands.support.builders import MakeSamplingParts
from commands.support.fake_options import describe_text
from commands.support.lineage import record_seen, seen_of
from commands.support.options import SharedOptions, settings_from, settings_options
from commands.support.teachers import ChosenTeacher, TeacherOptions, check_fits
from commands.support.workspace import artefact, artefact_digest, resolve_input
from image_data.seen_names import PREDICTOR
from runtime.errors import UserError
from teacher_sampler.remote.address import is_url
from teacher_sampler.sampling.settings import SamplerSettings

_Settings: Any = settings_options(
    SamplerSettings, "SamplerFlags", exclude={"seed", "teacher_digest", "filter_digest", "predictor_digest"}
)


_WORTH_A_PROCESS = 20_000  # fakes


class Options(_Settings, TeacherOptions, SharedOptions):
    """Flags of sample."""

    workers: int = Field(0, ge=0, description="Processes of one thread each; 0: one a core where it pays off.")
    filter: str | None = Field(None, description="Folder of the filter, or none.")
    predictor: str | None = Field(None, description="Folder of the predictor, or none.")
    accept: Literal["ratio", "all"] = Field(
        "ratio", description="all: reject nothing, store the filter's ratios (distill --weights, --keep)."
    )
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class  [default: 1000]")
    nfake_per_label: int | None = Field(None, ge=1, description="Fakes of each value of --labels (continuous labels).")
    labels: str | None = Field(None, description="LOW:HIGH:COUNT or v1,v2,...: label values (continuous labels).")
    extend: bool = Field(False, description="Let the fakes in --out DIR grow to the number asked for.")
    rho: float = Field(1.0, gt=0, le=1, description="Accept ceil(N / rho), so that N remain after the error filter.")


def run(options: Options) -> dict[str, Any]:
    """Sample, or continue, or find it done."""
    from commands.reporting.calibration import calibration_json
    from commands.support.engine import make_engine
    from teacher_sampler.sampling.sampler import sample
    from teacher_sampler.upkeep.extension import is_complete

    if options.extend and options.out is None:
        raise UserError("--extend needs --out DIR, the folder of the fakes that shall grow.")
    teacher = ChosenTeacher(options)
    plan = label_plan(options, teacher)
    _say_no_student(teacher)
    chosen_filter = None if options.filter == "none" else resolve_input("filter", _path(options.filter), options)
    predictor = _predictor(options, teacher)
    for kind, folder in (("filter", chosen_filter), ("predictor", predictor)):
        if folder is not None:
            check_fits(kind, folder, teacher, plan.labels)
    parents = {"teacher": teacher.digest}
    if chosen_filter is not None:
        parents["filter"] = artefact_digest("filter", chosen_filter)
    if predictor is not None:
        parents["predictor"] = artefact_digest("predictor", predictor)
    settings = settings_from(options, SamplerSettings, **{f"{kind}_digest": digest for kind, digest in parents.items()})
    make_parts = MakeSamplingParts(
        teacher.reference,
        chosen_filter,
        predictor,
        options.device,
        options.ceiling_quantile,
        teacher.adaptation,
        accept_all=options.accept == "all",
    )
    changeable = _changeable(options, plan.per_label)
    complete = partial(is_complete, per_label=plan.per_label)
    with artefact("sample", "fakes", options, parents, changeable=changeable, complete=complete) as output:
        if output.finished:
            _check_names(output.folder, teacher)
        else:
            record_seen(output.folder, *_seen(teacher, chosen_filter, predictor))
            engine = make_engine(options, output.folder, _processes(options, plan))
            sample(make_parts, plan, settings, output.folder, engine, extend=options.extend)
    return calibration_json(output.folder, options.workspace, chosen_filter)


def _predictor(options: Options, teacher: ChosenTeacher) -> Path | None:
    """The predictor's folder; none for one class by default, since every image of it is what was asked for."""
    from runtime.progress import say

    if options.predictor == "none":
        return None
    if options.predictor is None and _is_one_class(teacher):
        say("no predictor: there is one class, so no fake can be of another (--predictor none)")
        return None
    folder: Path = resolve_input("predictor", _path(options.predictor), options)
    return folder


def _say_no_student(teacher: ChosenTeacher) -> None:
    """Say now, while --image-size can still be given, that no student generator makes images of this size."""
    from runtime.progress import note
    from student_trainer.networks.tinygan import canvas_for

    try:
        canvas_for(teacher.card.resolution_px)
    except UserError as error:
        note(str(error))


def _check_names(folder: Path, teacher: ChosenTeacher) -> None:
    """UserError where finished fakes bear other labels than the teacher now has: the same network, named anew."""
    from image_data.fake import open_fakes
    from image_data.labels import labels_differ

    difference = labels_differ(open_fakes(folder).label_space, teacher.label_space)
    if difference is not None:
        raise UserError(
            f"{folder} (here) was sampled from --teacher {teacher.reference} (there) under other labels: {difference}; "
            "give a new folder with --out."
        )


def _is_one_class(teacher: ChosenTeacher) -> bool:
    return teacher.label_space.kind == "classes" and teacher.label_space.width == 1


def _seen(teacher: ChosenTeacher, chosen_filter: Path | None, predictor: Path | None) -> list[Any]:
    """What the parts of the sampler have seen; not in the dataset's digest, which is that of its images."""
    records = [seen_of("teacher", teacher.reference)]
    if chosen_filter is not None:
        records.append(seen_of("filter", chosen_filter))
    if predictor is not None:
        records.append(seen_of("predictor", predictor, PREDICTOR))
    return records


def _changeable(options: Options, per_label: int) -> set[str]:
    """Options in which the folder may differ from this command: those of no effect, and the number where it may change.

    What `run.json` and the manifest say decides that, whatever command asked for it.
    """
    from commands.support.record import COMMAND_FILE
    from image_data.fake.manifest import RUN_FILE
    from teacher_sampler.upkeep.extension import check_size

    if options.out is None:  # the number is in the folder's name
        return {"max_candidates_per_label"}
    if all((options.out / name).is_file() for name in (RUN_FILE, COMMAND_FILE)):
        check_size(options.out, per_label, options.extend)
    elif not options.extend:
        return {"max_candidates_per_label"}
    return {"max_candidates_per_label", "nfake_per_class", "nfake_per_label", "rho"}


def _processes(options: Options, plan: Any) -> int:
    """Starting a process costs some seconds, so this one samples a small dataset itself; the bytes are the same."""
    from runtime.devices import pick_device, usable_cores, visible_gpus

    if options.workers:
        return options.workers
    if plan.per_label * len(plan.labels) < _WORTH_A_PROCESS:
        return 1
    if pick_device(options.device).type != "cpu":
        return max(1, len(visible_gpus(options.device)))
    return usable_cores()  # whatever OMP_NUM_THREADS says: it bounds the threads of a process, and each has one


def label_plan(options: Options, teacher: ChosenTeacher) -> Any:
    """Which labels, and how many accepted fakes of each.  Ready images know which values they have."""
    import numpy as np

    from teacher_sampler.sampling.plan import LabelPlan

    space = teacher.label_space
    count = options.nfake_per_label if space.kind == "continuous" else options.nfake_per_class
    if space.kind == "classes":
        if options.labels or options.nfake_per_label:
            raise UserError("--labels and --nfake-per-label are for continuous labels; use --nfake-per-class.")
        return LabelPlan(np.arange(space.width), math.ceil((count or 1000) / options.rho))
    if options.nfake_per_class:
        raise UserError(
            "--nfake-per-class is for classes, and this teacher's labels are values; use --nfake-per-label."
        )
    known = getattr(teacher.teacher, "labels", None)
    values = known if options.labels is None and known is not None else parse_labels(options.labels, space)
    space.check(values, "--labels")
    return LabelPlan(values, math.ceil((count or 50) / options.rho))


def parse_labels(text: str | None, space: Any) -> Any:
    """`LOW:HIGH:COUNT` (evenly spaced), `v1,v2,...`, or 100 values over the whole range."""
    import numpy as np

    try:
        if text is None:
            return np.linspace(space.low, space.high, 100)
        if ":" in text:
            low, high, count = text.split(":")
            return np.linspace(float(low), float(high), int(count))
        return np.array([float(value) for value in text.split(",")])
    except ValueError as error:
        raise UserError(f"--labels {text} is neither LOW:HIGH:COUNT nor v1,v2,...; mend it.") from error


def needs(options: Options) -> dict[str, Any]:
    """Disk and memory, from the teacher's card where it is there, beside what is free."""
    from commands.support.workspace import SEAL
    from runtime.free_space import free_disk_bytes, free_memory_bytes
    from teacher_sampler.sampling.disk_space import GUESSED_RATE, check_space, estimate
    from teacher_sampler.sampling.plan import RunContent

    missing = options.teacher is None and not (options.workspace / "teacher" / "latest" / SEAL["teacher"]).is_file()
    if missing or is_url(options.teacher or ""):
        return {"disk": "known once the teacher exists" if missing else "known once the service is asked"}
    teacher = ChosenTeacher(options)
    plan = label_plan(options, teacher)
    space = teacher.label_space
    settings = settings_from(options, SamplerSettings)
    shape = (teacher.card.channels, teacher.card.resolution_px, teacher.card.resolution_px)
    resolved = settings.resolve(len(plan.labels), plan.per_label, space.kind == "classes", math.prod(shape))
    filtered = options.filter != "none"
    scored = options.predictor != "none" and not (options.predictor is None and _is_one_class(teacher))
    rejecting = filtered and options.accept == "ratio"
    latents = teacher.card.latent.get("dimension")
    content = RunContent(resolved, space.to_json(), plan.labels, shape, latents, filtered, rejecting, scored, {})
    estimated = estimate(content, plan.per_label, workers=_processes(options, plan))
    out, free = options.out or options.workspace, free_memory_bytes()
    refused = {}
    try:
        check_space(out, content, plan.per_label, None, _processes(options, plan))
    except UserError as error:
        refused = {"refused": str(error)}
    return {
        "fakes": plan.total,
        "disk_mb": round(estimated.disk_bytes / 1e6, 2),
        "disk_free_mb": round(free_disk_bytes(out) / 1e6, 2),
        "memory_mb": round(estimated.memory_bytes / 1e6, 1),
        "memory_free_mb": "unknown" if free is None else round(free / 1e6, 1),
        "acceptance": f"taken as {GUESSED_RATE:.2f}; the pilot will tell" if rejecting else "all",
        **refused,
    }


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


show = describe_text

"""Sampling a teacher into a fake dataset: run.json, pilot, units until every label has enough, the cut, the manifest.

The same call on an unfinished folder continues it and on a finished one returns at once; the result's bytes do not
depend on the number of workers, the order of the units, or kills.  With other settings the call is refused.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake import FakeDataset, open_fakes
from image_data.fake.manifest import MANIFEST_FILE, RUN_FILE, read_manifest
from interfaces import Engine
from runtime.atomic import disk_errors, remove_leftovers
from runtime.errors import UserError
from teacher_sampler.sampling.disk_space import check_space
from teacher_sampler.sampling.finish import finish_dataset
from teacher_sampler.sampling.pilot import run_pilot
from teacher_sampler.sampling.plan import LabelPlan, MakeParts, RunContent, SamplingParts, Unit
from teacher_sampler.sampling.runs import begin_run, note_size, one_writer, read_run
from teacher_sampler.sampling.schedule import Schedule
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import UnitResult, UnitWorker, once_a_process, overlapped, release
from teacher_sampler.upkeep.extension import (
    ExtendingWorker,
    check_listed,
    check_pilots,
    check_size,
    end_extension,
    finished_size,
    is_complete,
    listed_units,
)

__all__ = ["LabelPlan", "SamplerSettings", "SamplingParts", "sample"]


def sample(
    make_parts: MakeParts,
    plan: LabelPlan,
    settings: SamplerSettings,
    out: Path,
    engine: Engine,
    *,
    extend: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> FakeDataset:
    """Accept `plan.per_label` fakes of each planned label into the folder `out`; returns the finished dataset.

    `make_parts` is picklable and is called once in each process.  `extend` lets a dataset grow to a larger number of
    fakes; its shards stay.  A dataset that a run began to extend goes back to what it was where its old number is asked
    for.  `provenance` goes into the manifest beside versions and times (not into the digest).
    Raises UserError for a folder begun with other settings, a label that starves, a full disk, a second process at
    work in the same folder, and whatever the parts complain about.
    """
    out = Path(out)
    token = secrets.token_hex(8)
    try:
        with disk_errors(out), one_writer(out):
            content = _open_run(make_parts, plan, settings, out, token, extend, engine.workers)
            if is_complete(out, plan.per_label):
                return open_fakes(out)
            _clean(out)
            if finished_size(out) == plan.per_label:
                end_extension(out, content)
                return open_fakes(out)
            _fill(make_parts, plan, content, settings.cap(plan.per_label), out, token, engine, dict(provenance or {}))
    finally:
        release(token)
    return open_fakes(out)


def _open_run(
    make_parts: MakeParts, plan: LabelPlan, settings: SamplerSettings, out: Path, token: str, extend: bool, workers: int
) -> RunContent:
    if (out / RUN_FILE).is_file():
        stored = read_run(out, plan, settings)
        check_size(out, plan.per_label, extend)
        return stored
    if (out / MANIFEST_FILE).exists():
        raise UserError(f"{out} holds a dataset without its {RUN_FILE}; `repair` makes it from the manifest.")
    return begin_run(out, plan, settings, once_a_process(token, make_parts), workers)


def _clean(out: Path) -> None:
    """Delete what a killed process left half-written; the lock is held, so nobody else is writing."""
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        remove_leftovers(folder)


def _fill(
    make_parts: MakeParts,
    plan: LabelPlan,
    content: RunContent,
    cap: int,
    out: Path,
    token: str,
    engine: Engine,
    provenance: dict[str, Any],
) -> None:
    started = time.time()
    before = read_manifest(out) if (out / MANIFEST_FILE).is_file() else None
    check_space(out, content, plan.per_label, None, engine.workers)
    if before is not None:
        check_pilots(out, before)
    pilot = run_pilot(out, make_parts, lambda: once_a_process(token, make_parts).acceptance, content, token, engine)
    if content.needs_ratio:
        check_space(out, content, plan.per_label, pilot.rates, engine.workers)
    schedule = Schedule(content, plan.per_label, cap, pilot)
    note_size(out, content, plan.per_label)  # nothing was refused, and from here on units are added
    worker = UnitWorker(out, make_parts, content, content.digest, pilot.ceilings, token)
    if before is not None:
        worker = ExtendingWorker(**vars(worker), finished=listed_units(before, content.groups))
    schedule.run(partial(_make_units, engine, worker), engine.workers)
    if before is not None:
        check_listed(out, content, before, schedule.results)
    times = {"started": started, "finished": time.time(), "workers": engine.workers}
    finish_dataset(out, content, plan.per_label, pilot, schedule.results, {**provenance, **times, **_versions()})


def _make_units(engine: Engine, worker: UnitWorker, units: Iterable[Unit]) -> Iterator[UnitResult]:
    """One process writes while it computes; of several, one computes while another writes."""
    if engine.workers == 1:
        return overlapped(engine.map(worker.compute, units), worker.commit)
    return iter(engine.map(worker, units))


def _versions() -> dict[str, Any]:
    import platform

    import h5py
    import torch

    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

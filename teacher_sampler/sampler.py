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
from teacher_sampler.finish import finish_dataset
from teacher_sampler.pilot import run_pilot
from teacher_sampler.plan import LabelPlan, MakeParts, RunContent, SamplingParts, Unit
from teacher_sampler.room import check_room
from teacher_sampler.runs import begin_run, one_writer, read_run
from teacher_sampler.schedule import Schedule
from teacher_sampler.settings import SamplerSettings
from teacher_sampler.units import UnitResult, UnitWorker, built, overlapped, release

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
    fakes; its shards stay.  `provenance` goes into the manifest beside versions and times (not into the digest).
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
            _fill(make_parts, plan, content, settings.cap(plan.per_label), out, token, engine, dict(provenance or {}))
    finally:
        release(token)
    return open_fakes(out)


def _open_run(
    make_parts: MakeParts, plan: LabelPlan, settings: SamplerSettings, out: Path, token: str, extend: bool, workers: int
) -> RunContent:
    if (out / RUN_FILE).is_file():
        return read_run(out, plan, settings, extend, workers)
    if (out / MANIFEST_FILE).exists():
        raise UserError(f"{out} holds a dataset without its {RUN_FILE}; `repair` makes it from the manifest.")
    return begin_run(out, plan, settings, built(token, make_parts), workers)


def is_complete(out: Path, per_label: int) -> bool:
    """Whether the folder holds a finished dataset of so many fakes of each label."""
    return (out / MANIFEST_FILE).is_file() and bool(read_manifest(out).content["per_label"] == per_label)


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
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        remove_leftovers(folder)
    check_room(out, content, plan.per_label, None, engine.workers)
    pilot = run_pilot(out, make_parts, lambda: built(token, make_parts).acceptance, content, token, engine)
    if content.needs_ratio:
        check_room(out, content, plan.per_label, pilot.rates, engine.workers)
    schedule = Schedule(content, plan.per_label, cap, pilot)
    worker = UnitWorker(out, make_parts, content, content.digest, pilot.ceilings, token)
    schedule.run(partial(_make_units, engine, worker), engine.workers)
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

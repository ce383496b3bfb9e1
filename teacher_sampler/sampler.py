"""Sampling a teacher into a fake dataset: run.json, pilot, units until every label has enough, the cut, the manifest.

The same call on an unfinished folder continues it and on a finished one returns at once; the result's bytes do not
depend on the number of workers, the order of the units, or kills.  With other settings the call is refused.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake import FakeDataset, open_fakes
from image_data.fake.manifest import MANIFEST_FILE, RUN_FILE, read_manifest
from interfaces import Engine
from runtime.atomic import remove_leftovers
from runtime.errors import UserError
from teacher_sampler.finish import finish_dataset
from teacher_sampler.pilot import run_pilot
from teacher_sampler.plan import LabelPlan, MakeParts, RunContent, SamplingParts
from teacher_sampler.runs import begin_run, read_run
from teacher_sampler.schedule import Schedule
from teacher_sampler.settings import SamplerSettings
from teacher_sampler.units import UnitWorker, built, release

__all__ = ["LabelPlan", "SamplerSettings", "SamplingParts", "sample"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


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
        with _only_one_process(out):
            content = _open_run(make_parts, plan, settings, out, token, extend)
            finished = _finished(out, plan)
            if finished is not None:
                return finished
            _fill(make_parts, plan, content, settings.cap(plan.per_label), out, token, engine, dict(provenance or {}))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"{out}: {error.strerror}; nothing committed is lost, make room and run the same command again to continue."
        ) from error
    finally:
        release(token)
    return open_fakes(out)


def _open_run(
    make_parts: MakeParts, plan: LabelPlan, settings: SamplerSettings, out: Path, token: str, extend: bool
) -> RunContent:
    if (out / RUN_FILE).is_file():
        return read_run(out, plan, settings, extend)
    if (out / MANIFEST_FILE).exists() or (out / "shards").exists():
        raise UserError(f"{out} holds a dataset without its {RUN_FILE}; restore that file or choose another folder.")
    return begin_run(out, plan, settings, built(token, make_parts))


def _finished(out: Path, plan: LabelPlan) -> FakeDataset | None:
    if not (out / MANIFEST_FILE).is_file():
        return None
    return open_fakes(out) if read_manifest(out).content["per_label"] == plan.per_label else None


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
    pilot = run_pilot(out, make_parts, lambda: built(token, make_parts).acceptance, content, token, engine)
    schedule = Schedule(content, plan.per_label, cap, pilot)
    worker = UnitWorker(out, make_parts, content, content.digest, pilot.ceilings, token)
    schedule.run(partial(engine.map, worker), engine.workers)
    times = {"started": started, "finished": time.time(), "workers": engine.workers}
    finish_dataset(out, content, plan.per_label, pilot, schedule.results, {**provenance, **times, **_versions()})


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


@contextmanager
def _only_one_process(out: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system lets it go when the process dies."""
    out.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with open(out / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                yield  # a file system without locks
                return
            raise UserError(f"another process is sampling into {out}; wait for it or choose another folder.") from error
        yield

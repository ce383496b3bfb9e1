"""The whole path on real digits: teachers, filters, fakes, students, rho search; ends with a table and a report.

Two settings, three folds of disjoint test images, equal optimiser steps for every classifier.  All of it runs on the
ordinary commands; killed at any moment, the same command continues.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.options import Folder, Rhos, SharedOptions, plain
from runtime.errors import UserError


class Options(SharedOptions):
    """Flags of demo; the defaults take 50 minutes of processor time."""

    workspace: Folder = Field(Path("runs/demo"), description="The demo's own workspace.")
    workers: int = Field(0, ge=0, description="Processes; 0: one a core.")
    folds: int = Field(3, ge=1, le=3, description="Cross-fitting folds, each with its own teachers and students.")
    teacher_steps: int = Field(0, ge=0, description="Steps of each teacher; 0: the default of train-teacher.")
    nfake_per_class: int = Field(500, ge=1, description="Fakes of each class that a student may see.")
    classifier_steps: int = Field(700, ge=1, description="Optimiser steps of every classifier.")
    student_steps: int = Field(0, ge=0, description="Steps of the student generator; 0: its default.")
    rhos: Rhos = Field((0.5, 0.75, 1.0), description="The grid of the rho search.")


def run(options: Options) -> dict[str, Any]:
    """Run every cell, then gather the table and the report."""
    from commands.reporting import demo_report
    from commands.reporting.demo_work import DemoPlan, Worker
    from runtime.devices import usable_cores
    from runtime.engines import LocalEngine
    from runtime.safe_files import write_sealed_json

    begin = time.monotonic()
    if options.dry_run:
        _same_options(options, write=False)
    work_begins(options)
    plan = DemoPlan(
        options.workspace.resolve(),
        options.folds,
        options.teacher_steps,
        options.nfake_per_class,
        options.classifier_steps,
        rhos=tuple(options.rhos),
        student_steps=options.student_steps,
    )
    _same_options(options)
    engine = LocalEngine(min(options.workers or usable_cores(), 2 * options.folds))  # more would wait for parts
    with _progress_of(plan):
        for _ in engine.map(Worker.run, [Worker(plan, number) for number in range(engine.workers)]):
            pass
    seconds = time.monotonic() - begin
    result = demo_report.finish(plan, engine.workers)
    write_sealed_json(options.workspace / "result.json", {**result, "seconds": seconds})
    return {**result, "seconds": round(seconds, 1)}


def _same_options(options: Options, write: bool = True) -> None:
    """Refuse to mix two demos in one workspace."""
    from runtime.safe_files import read_sealed_json, write_sealed_json

    record = options.workspace / "demo.json"
    now = {
        name: value
        for name, value in plain(options).items()
        if name not in {"workers", "json", "dry_run", "device", "ray_address"}
    }
    if record.is_file():
        if read_sealed_json(record, "restore it, or give another --workspace") != now:
            raise UserError(f"{options.workspace} holds a demo with other options; give another --workspace.")
        return
    if options.workspace.is_dir() and any(options.workspace.iterdir()):
        raise UserError(f"--workspace {options.workspace} is not empty; give a new folder.")
    if write:
        write_sealed_json(record, now)


class _progress_of:  # noqa: N801 - used as a with-statement's verb
    """Shows how much of the demo is done, by looking at what the cells have written."""

    def __init__(self, plan: Any) -> None:
        self._plan, self._stop = plan, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from commands.reporting.demo_work import work_done, work_total
        from runtime.progress import progress

        total = work_total(self._plan)
        with progress("demo", total, min(total, work_done(self._plan))) as bar:
            while not self._stop.wait(2.0):
                bar.update(min(total, work_done(self._plan)))
            bar.update(total)


def show(result: dict[str, Any]) -> str:
    """The tables and where the report lies."""
    parts = [result["verdict"], *result["details"], ""]
    for title, table in result["tables"].items():
        parts += [title, table, ""]
    parts += [result["protocol"], *result["seen"]]
    parts.append(f"finished in {result['seconds'] / 60:.1f} minutes; report: {result['report']}")
    return "\n".join(parts)

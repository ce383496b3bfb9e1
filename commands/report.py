"""Write the HTML report of a workspace: pictures, filter evidence, quality, costs, the rho curve, all in one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.builders import load_data
from commands.support.dry_run import work_begins
from commands.support.options import DataOptions
from commands.support.workspace import provenance
from runtime.errors import UserError


class Options(DataOptions):
    """Flags of report; --out names the file."""

    rho: float | None = Field(None, gt=0, le=1, description="Filtering shown (the workspace's choice by default).")


def run(options: Options) -> dict[str, Any]:
    """Gather what is there and write the page."""
    from commands.reporting import gather
    from evaluation.report import ReportData, check_replaceable, write_report
    from runtime.devices import pick_device, set_threads

    target = options.out or options.workspace / "report.html"
    if options.out is not None:
        check_replaceable(target)
    device = pick_device(options.device)
    set_threads(options.workers)
    artefacts = gather.Artefacts.in_workspace(options.workspace)
    if not any(artefacts.folders.values()):
        raise UserError(f"{options.workspace} is empty; run `python cli.py sample` first or give --workspace DIR.")
    data = load_data(options)
    rho = options.rho or gather.chosen_rho(artefacts) or 0.9
    environment = provenance()
    work_begins(options)
    parts, (verdict, tone) = gather.parts(artefacts, options.workspace, data, device, rho)
    page = ReportData(
        title="Retort report",
        subtitle=str(options.workspace),
        verdict=verdict,
        verdict_tone=tone,
        stages=gather.stages(artefacts, data, rho),
        methods=gather.classifier_tables(options.workspace, artefacts.problems),
        **parts,
        provenance=gather.provenance_lines(environment),
        commands=gather.command_lines(artefacts),
    )
    problems = gather.card_problems(artefacts)
    page = replace(page, notes=[*(f"{text}." for text in problems), *page.notes])
    write_report(page, target)
    warnings = [*problems, *parts.get("warnings", [])]
    return {"report": str(target), "bytes": Path(target).stat().st_size, "warnings": warnings}


def show(result: dict[str, Any]) -> str:
    """Where the page lies, and the warnings that stand in it."""
    lines = [f"{result['report']}  {result['bytes'] / 1e3:.0f} kB"]
    return "\n".join([*lines, *(f"warning: {text}" for text in result["warnings"])])

"""The demo's end: both comparisons in one table, a verdict in words by the table's own intervals, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands.reporting import demo_work as work
from commands.reporting import gather
from commands.support.compared import RESULT_FILE
from commands.support.workspace import provenance
from evaluation.comparison import Comparison, Run
from evaluation.table import Table, table_text
from runtime.safe_files import read_sealed_json

_REMEDY = "remove it, and run the demo again"
_TITLES = {
    work.FEW: "Few labels: GAN, filter and students see the same 100 labelled images",
    work.BLACK_BOX: "Black box: the GAN comes from 1,000 images; the student's side has 100, or none",
}
_LEAD = (
    "One row a method and training set: none learns from the labels, blkd from a larger network's soft labels too. The "
    "last difference says what the fakes add to the same method; an interval that leaves out 0 is resolved."
)


def finish(plan: work.DemoPlan, workers: int) -> dict[str, Any]:
    """Gather the results, write the report, return what the command prints."""
    from evaluation.filter_effect import filter_effects

    results = {
        setting: read_sealed_json(plan.root / setting / RESULT_FILE, _REMEDY) for setting in (work.FEW, work.BLACK_BOX)
    }
    comparisons = {
        setting: Comparison.of(_runs(result), "%", 100.0, result["covers"]) for setting, result in results.items()
    }
    quality = read_sealed_json(plan.root / "product" / "evaluation" / "latest" / "result.json", _REMEDY)
    verdict, tone, details = _verdict(comparisons)
    details += [effect.sentence for effect in filter_effects(quality)]
    report = plan.root / "report.html"
    seen = list(dict.fromkeys(line for result in results.values() for line in result["seen"]))
    told = [_protocol(plan, results), *seen]
    _write_report(plan, comparisons, report, verdict, tone, details, told)
    return {
        "report": str(report),
        "verdict": verdict,
        "details": details,
        "tables": {_TITLES[setting]: table_text(one.table()) for setting, one in comparisons.items()},
        "methods": {setting: one.to_json() for setting, one in comparisons.items()},
        "quality": quality,
        "protocol": told[0],
        "seen": seen,
        "workers": workers,
    }


def _runs(result: dict[str, Any]) -> list[Run]:
    return [Run(**run) for run in result["runs"]]


def _protocol(plan: work.DemoPlan, results: dict[str, Any]) -> str:
    """What stands beside every number of the tables."""
    return (
        f"Students: {plan.network} of width {plan.width:g} at 16 x 16; the filter's predictor and the teachers of soft "
        f"labels: {plan.teacher_network}. {results[work.BLACK_BOX]['protocol']} A seed covers "
        f"{results[work.BLACK_BOX]['covers']}. A mixed set is {plan.real_share:.0%} real (repeated) images; rho is "
        "searched on 300 validation images that none of the networks has seen."
    )


def _verdict(comparisons: dict[str, Comparison]) -> tuple[str, str, list[str]]:
    """(one sentence on whether fakes helped, its tone, the differences behind it); negative differences are gains."""
    details, signs = [], []
    for setting, words in ((work.FEW, "few labels"), (work.BLACK_BOX, "black box")):
        for line in comparisons[setting].lines:
            difference = line.to_first_set
            if line.training_set != work.MIXED or difference is None:
                continue
            half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
            details.append(
                f"{words}: {line.method} on {line.training_set} against {line.method} on {work.REAL}: "
                f"{100 * difference.mean:+.1f}{half} points of test error"
            )
            signs.append(difference.sign)
    better, worse = sum(sign < 0 for sign in signs), sum(sign > 0 for sign in signs)
    folds = comparisons[work.FEW].lines[0].seeds
    sentence = (
        f"Real and fake images beat real ones in {better} of {len(signs)} comparisons at equal steps, lose {worse}, "
        f"and {len(signs) - better - worse} are not resolved (95 % intervals over {folds} folds)."
    )
    return sentence, "good" if better and not worse else "mixed", details


def _method_table(comparisons: dict[str, Comparison]) -> Table:
    """Both settings in one table, grouped."""
    tables = {setting: one.table() for setting, one in comparisons.items()}
    first = tables[work.FEW]
    groups: dict[int, str] = {}
    rows: list[Any] = []
    for setting, table in tables.items():
        groups[len(rows)] = _TITLES[setting]
        rows += [*table.rows]
    return Table("Light classifiers: what the fakes are worth", first.columns, rows, first.caption, groups)


def _write_report(
    plan: work.DemoPlan,
    comparisons: dict[str, Comparison],
    target: Path,
    verdict: str,
    tone: Any,
    details: list[str],
    told: list[str],
) -> None:
    import torch

    from evaluation.report import ReportData, picture_strip, write_report
    from image_data.real import load_real
    from runtime.atomic import write_bytes

    device, product = torch.device("cpu"), plan.root / "product"
    teacher = plan.parts(work.BLACK_BOX, 0) / "teacher" / "latest"
    search = plan.parts(work.BLACK_BOX, 0) / "rho" / "latest"
    artefacts = gather.Artefacts.in_workspace(product, teacher=teacher, rho=search)
    data = load_real("digits", fold=0)
    rho = gather.chosen_rho(artefacts) or 1.0
    parts, _ = gather.parts(artefacts, product, data, device, min(rho, 0.9))
    write_report(
        ReportData(
            title="Retort: the whole path on real digits",
            subtitle=f"{plan.classifier_steps} steps for every classifier; the whole protocol ends the page",
            verdict=verdict,
            verdict_tone=tone,
            verdict_details=details,
            stages=gather.stages(artefacts, data, rho),
            methods=[_method_table(comparisons)],
            methods_lead=_LEAD,
            **parts,
            protocol=told,
            provenance=gather.provenance_lines(provenance()),
            commands=["python cli.py demo", *gather.command_lines(artefacts)],
        ),
        target,
    )
    strip = [grid for grid in parts["grids"] if grid.role in ("real", "accepted", "student")]
    write_bytes(plan.root / "pictures.png", picture_strip(strip, scale=2))

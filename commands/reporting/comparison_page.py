"""What a comparison leaves: result.json, table.csv, table.tex, error.svg and index.html, the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.support.compared import RESULT_FILE, ComparedCell
from evaluation.comparison import Comparison, Run
from evaluation.report import Intervals, ReportData, write_report, write_svg
from evaluation.table import Column, Measured, table_text
from runtime.atomic import write_text
from runtime.safe_files import read_sealed_json, write_sealed_json

_LEAD = (
    "One row a method and training set, the baseline first. The last difference says what the training set adds to the "
    "same method; an interval that leaves out 0 is a difference that these seeds resolve."
)
_REMEDY = "remove its folder, and the comparison runs that cell again"


def write_comparison(folder: Path, cells: Sequence[ComparedCell], covers: str) -> dict[str, Any]:
    """From the finished cells' results; result.json is the last, and seals the folder."""
    results = [read_sealed_json(cell.result, _REMEDY) for cell in cells]
    test = results[0]["test"]
    unit, scale = ("%", 100.0) if test["measure"] == "error_rate" else (str(test.get("unit", "")), 1.0)
    runs = [
        Run(cell.training_set, cell.network, cell.method, cell.seed, float(result["test"]["value"]))
        for cell, result in zip(cells, results, strict=True)
    ]
    comparison = Comparison.of(_in_order(runs), unit, scale, covers)
    table = comparison.table()
    write_text(folder / "table.csv", comparison.csv())
    write_text(folder / "table.tex", comparison.latex())
    plots = _plots(comparison)
    write_svg(plots[0], folder / "error.svg")
    protocol = _protocol(cells, results)
    seen = list(dict.fromkeys(str(result["seen"]) for result in results))
    write_report(
        ReportData(
            title="Methods and training sets compared",
            subtitle=protocol,
            verdict=comparison.verdict(),
            methods=[table],
            methods_lead=_LEAD,
            method_plots=plots,
            protocol=[protocol, f"A seed covers {covers}.", *seen],
        ),
        folder / "index.html",
    )
    result = {
        **comparison.to_json(),
        "runs": [vars(run) for run in runs],
        "table": table_text(table),
        "caption": table.caption,
        "verdict": comparison.verdict(),
        "protocol": protocol,
        "seen": seen,
    }
    write_sealed_json(folder / RESULT_FILE, result)
    return result


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """By network, set and method in the order of their first run; the cells come seed by seed."""
    places: dict[tuple[str, str, str], int] = {}
    for run in runs:
        places.setdefault((run.network, run.training_set, run.method), len(places))
    return sorted(runs, key=lambda run: places[run.network, run.training_set, run.method])


def _plots(comparison: Comparison) -> list[Intervals]:
    """The errors of each network: one point a row with its standard deviation."""
    column = Column("test error", comparison.unit, decimals=2, scale=comparison.scale, better="lower")
    plots = []
    for network in dict.fromkeys(line.network for line in comparison.lines):
        points = {
            f"{line.method}, {line.training_set}": Measured(line.mean, line.spread)
            for line in comparison.lines
            if line.network == network
        }
        plots.append(Intervals(column, points, f"{network}: mean and standard deviation over seeds."))
    return plots


def _protocol(cells: Sequence[ComparedCell], results: Sequence[dict[str, Any]]) -> str:
    """What stands beside every number."""
    first = results[0]["protocol"]
    images = " or ".join(f"{count:,}" for count in sorted({int(result["test"]["images"]) for result in results}))
    data = " or ".join(dict.fromkeys(str(result["protocol"]["data"]) for result in results))
    sets = ", ".join(dict.fromkeys(f"{cell.training_set}: {_count(results, cells, cell)}" for cell in cells))
    tuned = {result["protocol"].get("init_from") is not None for result in results}
    start = " or ".join({False: "from scratch", True: "from a given classifier"}[one] for one in sorted(tuned))
    return (
        f"{_length(results)} of batch {first['batch_size']} for every row, {start}; training images ({sets}); "
        f"{images} test images, opened once a row; {data}; seeds {', '.join(_seeds(cells))}."
    )


def _length(results: Sequence[dict[str, Any]]) -> str:
    steps = sorted({int(result["protocol"]["steps"]) for result in results})
    epochs = results[0]["protocol"].get("epochs")
    if epochs is None:
        return f"{steps[0]} steps"
    return f"{epochs:g} epochs of its own training set ({' or '.join(f'{count:,}' for count in steps)} steps)"


def _count(results: Sequence[dict[str, Any]], cells: Sequence[ComparedCell], wanted: ComparedCell) -> str:
    counts = sorted(
        {
            int(result["protocol"]["images"])
            for cell, result in zip(cells, results, strict=True)
            if cell.training_set == wanted.training_set
        }
    )
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _seeds(cells: Sequence[ComparedCell]) -> list[str]:
    return [str(seed) for seed in dict.fromkeys(cell.seed for cell in cells)]

"""What a comparison leaves: result.json, table.csv, table.tex, error.svg and index.html, the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.reporting.comparison_curves import error_curves
from commands.support.compared import BASELINE, RESULT_FILE, ComparedCell, by_epochs
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


def write_comparison(folder: Path, cells: Sequence[ComparedCell], options: Any, covers: str) -> dict[str, Any]:
    """From the finished cells' results; result.json is the last, and seals the folder.  options: compare's."""
    results = [read_sealed_json(cell.result, _REMEDY) for cell in cells]
    test = results[0]["test"]
    unit, scale = ("%", 100.0) if test["measure"] == "error_rate" else (str(test.get("unit", "")), 1.0)
    comparison = Comparison.of(runs := _runs(cells, results, options), unit, scale, covers)
    longer, further = [], None
    if options.epochs is not None:
        again = [by_epochs(cell, options.epochs) for cell in cells]
        longer = _runs(again, _read(again), options)
        further = Comparison.of(longer, unit, scale, covers)
    table = comparison.table(further, f"after {options.epochs:g} epochs" if further else "")
    write_text(folder / "table.csv", comparison.csv(further))
    write_text(folder / "table.tex", comparison.latex(table))
    plots, curves = _plots(comparison), error_curves(comparison, options.sets)
    write_svg(plots[0], folder / "error.svg")
    for axis, curve in curves.items():
        write_svg(curve, folder / f"error_by_{axis}.svg")
    protocol = _protocol(cells, results, options)
    seen = list(dict.fromkeys(str(result["seen"]) for result in results))
    write_report(
        ReportData(
            title="Methods and training sets compared",
            subtitle=protocol,
            verdict=comparison.verdict(),
            methods=[table],
            methods_lead=_LEAD,
            method_plots=[*curves.values(), *plots],
            protocol=[protocol, f"A seed covers {covers}.", *seen],
        ),
        folder / "index.html",
    )
    result = {
        **comparison.to_json(),
        "runs": [vars(run) for run in runs],
        "epochs": options.epochs,
        "runs_by_epochs": [vars(run) for run in longer],
        "table": table_text(table),
        "caption": table.caption,
        "verdict": comparison.verdict(),
        "protocol": protocol,
        "seen": seen,
    }
    write_sealed_json(folder / RESULT_FILE, result)
    return result


def _read(cells: Sequence[ComparedCell]) -> list[dict[str, Any]]:
    return [read_sealed_json(cell.result, _REMEDY) for cell in cells]


def _runs(cells: Sequence[ComparedCell], results: Sequence[dict[str, Any]], options: Any) -> list[Run]:
    """By network, set and method in the order of their first run; the cells come seed by seed."""
    runs = [
        Run(cell.training_set, cell.network, cell.method, cell.seed, result["test"]["value"], _rate(cell, options))
        for cell, result in zip(cells, results, strict=True)
    ]
    places: dict[tuple[str, str, str], int] = {}
    for run in runs:
        places.setdefault((run.network, run.training_set, run.method), len(places))
    return sorted(runs, key=lambda run: places[run.network, run.training_set, run.method])


def _rate(cell: ComparedCell, options: Any) -> float | None:
    return float(cell.options["lr"]) if options.learning_rates else None


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


def _protocol(cells: Sequence[ComparedCell], results: Sequence[dict[str, Any]], options: Any) -> str:
    """What stands beside every number."""
    first = results[0]["protocol"]
    images = " or ".join(f"{count:,}" for count in sorted({int(result["test"]["images"]) for result in results}))
    data = " or ".join(dict.fromkeys(str(result["protocol"]["data"]) for result in results))
    sets = ", ".join(dict.fromkeys(f"{cell.training_set}: {_count(results, cells, cell)}" for cell in cells))
    return (
        f"{first['steps']} steps of batch {first['batch_size']} for every row, {_start(options)}; training images "
        f"({sets}); {images} test images, opened once a row; {data}; seeds {', '.join(_seeds(cells))}.{_rates(options)}"
    )


def _start(options: Any) -> str:
    """Where the weights come from."""
    start = "from scratch" if options.init_from is None else "from a given classifier"
    for name, one in options.sets.items():
        if "init_from" in one:
            whose = "the baseline's student" if one["init_from"] == BASELINE else "a given classifier"
            start += f", but {name} from {whose}"
    return start


def _rates(options: Any) -> str:
    if not options.learning_rates:
        return ""
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    own = [f"{name} has {float(one['lr']):g}" for name, one in options.sets.items() if "lr" in one]
    but = f" ({', '.join(own)}, as given)" if own else ""
    return f" The learning rate of each row is one of {rates}, chosen on the first seed's validation images{but}."


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

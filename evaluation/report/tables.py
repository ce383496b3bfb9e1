"""Tables for the page: formatting, marking the best, and ready-made tables of quality and cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluation.metrics.cost import Cost
from evaluation.report.data import Cell, Column, Measured, Table

NOTHING = "–"


@dataclass(frozen=True)
class ShownCell:
    """What the template prints."""

    text: str
    error: str = ""
    best: bool = False
    bar_percent: float | None = None
    width_ch: int = 0  # of the column's widest number and error, so that bars begin at one place


@dataclass(frozen=True)
class ShownRow:
    """A row of cells, perhaps under a new heading."""

    cells: list[ShownCell]
    heading: str = ""


def shown_rows(table: Table) -> list[ShownRow]:
    """Every cell formatted; the best of each column is marked within each group of rows."""
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"{table.title}: a row has {len(row)} cells for {len(table.columns)} columns")
    starts = sorted({0, *table.groups, len(table.rows)})
    spans = [range(begin, end) for begin, end in itertools.pairwise(starts)]
    best = {
        (row, index)
        for index, column in enumerate(table.columns)
        for span in spans
        for row in _best_rows(table.rows, span, index, column)
    }
    tops = [max((_number(row[index]) or 0.0 for row in table.rows), default=0.0) for index in range(len(table.columns))]
    shown = []
    for number, row in enumerate(table.rows):
        cells = [
            _shown(cell, column, (number, index) in best, tops[index])
            for index, (cell, column) in enumerate(zip(row, table.columns, strict=True))
        ]
        shown.append(ShownRow(cells, table.groups.get(number, "")))
    widths = [max((_width(row.cells[index]) for row in shown), default=0) for index in range(len(table.columns))]
    return [
        replace(row, cells=[replace(cell, width_ch=width) for cell, width in zip(row.cells, widths, strict=True)])
        for row in shown
    ]


def quality_table(results: Mapping[str, Mapping[str, Any]], title: str = "Quality of the images") -> Table:
    """One row for each named result of `evaluation.quality.image_quality`."""
    first = next(iter(results.values()), {})
    agreement = next((r["label_agreement"] for r in results.values() if r.get("label_agreement")), None)
    columns = [
        Column("images", numeric=False),
        Column(first.get("metric", "Fréchet distance"), decimals=3, better="lower", bars=True),
        Column("KID", "× 10⁻³", decimals=2, scale=1e3, better="lower"),
        _agreement_column(agreement),
        Column("precision", "%", scale=100),
        Column("recall", "%", scale=100, better="higher"),
        Column("N", decimals=0),
    ]
    rows: list[list[Cell]] = []
    for name, result in results.items():
        kernel, labels = result.get("kernel_distance"), result.get("label_agreement")
        rows.append(
            [
                name,
                result.get("score"),
                Measured(kernel["mean"], kernel["standard_error"]) if kernel else None,
                Measured(labels["value"], labels["standard_error"]) if labels else None,
                result.get("precision"),
                result.get("recall"),
                result["images"]["fake"],
            ]
        )
    refused = sorted({r["score_refused"] for r in results.values() if r.get("score_refused")})
    return Table(title, columns, rows, caption=" ".join(text[:1].upper() + text[1:] for text in refused))


def cost_table(costs: Mapping[str, Cost], title: str = "Size and speed") -> Table:
    """One row for each named network; latencies of one call."""
    batch = next((cost.batch for cost in costs.values()), 0)
    threads = next((cost.threads for cost in costs.values()), 1)
    columns = [
        Column("network", numeric=False),
        Column("parameters", "thousand", scale=1e-3, better="lower", bars=True),
        Column("multiply-adds", "million", decimals=2, scale=1e-6, better="lower", bars=True),
        Column("one image", "ms", decimals=2, better="lower"),
        Column("one image, p95", "ms", decimals=2),
        Column(f"batch of {batch}", "ms", better="lower"),
    ]
    rows: list[list[Cell]] = [
        [name, cost.parameters, cost.macs, cost.latency_p50_ms, cost.latency_p95_ms, cost.batch_latency_p50_ms]
        for name, cost in costs.items()
    ]
    device = next((cost.device for cost in costs.values()), "cpu").replace("cpu", "the CPU")
    noun = "thread" if threads == 1 else "threads"
    return Table(title, columns, rows, caption=f"Median latency of one call on {device} with {threads} {noun}.")


def _agreement_column(agreement: Mapping[str, Any] | None) -> Column:
    if agreement and agreement["measure"] == "mae":
        return Column("label error", agreement["unit"], decimals=2, better="lower")
    return Column("judge agrees", "%", scale=100, better="higher")


def _width(cell: ShownCell) -> int:
    return len(cell.text) + (len(cell.error) + 1 if cell.error else 0)


def _number(cell: Cell) -> float | None:
    value = cell.value if isinstance(cell, Measured) else cell
    if value is None or isinstance(value, (str, bool)) or not math.isfinite(value):
        return None
    return float(value)


def _best_rows(rows: Sequence[Sequence[Cell]], span: range, index: int, column: Column) -> list[int]:
    found = {row: value for row in span if (value := _number(rows[row][index])) is not None}
    if not column.better or len(found) < 2:
        return []
    target = min(found.values()) if column.better == "lower" else max(found.values())
    return [row for row, value in found.items() if value == target]


def _shown(cell: Cell, column: Column, best: bool, top: float) -> ShownCell:
    if isinstance(cell, str):
        return ShownCell(cell)
    value = _number(cell)
    if value is None:
        return ShownCell(NOTHING)
    error = cell.error if isinstance(cell, Measured) else None
    text = thousands(value * column.scale, column.decimals)
    spread = "" if error is None else f"± {thousands(error * column.scale, column.decimals)}"
    bar = round(100 * max(value, 0.0) / top, 1) if column.bars and top > 0 else None
    return ShownCell(text, spread, best, bar)


def thousands(value: float, decimals: int = 0) -> str:
    """Thousands by thin spaces, a true minus sign."""
    return f"{value:,.{decimals}f}".replace(",", "\u2009").replace("-", "−")

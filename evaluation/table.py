"""A table of numbers: columns with unit and direction, cells formatted once, as text or for the report's page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

NOTHING = "–"


@dataclass(frozen=True)
class Measured:
    """A value with its standard error (None: not known), both before the column's scale."""

    value: float
    error: float | None = None


Cell = str | int | float | Measured | None


@dataclass(frozen=True)
class Column:
    """One column of a table.  Numbers are multiplied by `scale` and shown with `decimals`; `better` marks the best.

    `bars` draws a faint bar under each number, from zero to the largest of the column; `signed` shows a plus sign.
    """

    name: str
    unit: str = ""
    decimals: int = 1
    scale: float = 1.0
    better: Literal["", "lower", "higher"] = ""
    bars: bool = False
    numeric: bool = True
    signed: bool = False

    @property
    def heading(self) -> str:
        """Name and unit in one line."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """`rows` of one cell a column; `groups` names a heading before the row of that index (best is marked per group)."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    groups: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownCell:
    """A formatted cell."""

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


def table_text(table: Table) -> str:
    """The table for a terminal: headings, a rule, one line a row, numbers to the right; without title and caption."""
    rows = [[f"{cell.text} {cell.error}".strip() for cell in row.cells] for row in shown_rows(table)]
    rows = [[text.replace("\u2009", ",").replace("−", "-") for text in row] for row in rows]
    lines = [[column.heading for column in table.columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            text.rjust(width) if column.numeric else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )


def thousands(value: float, decimals: int = 0, *, signed: bool = False) -> str:
    """Thousands by thin spaces, a true minus sign."""
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace(",", "\u2009").replace("-", "−")


def _width(cell: ShownCell) -> int:
    return len(cell.text) + (len(cell.error) + 1 if cell.error else 0)


def _number(cell: Cell) -> float | None:
    value = cell.value if isinstance(cell, Measured) else cell
    if value is None or isinstance(value, (str, bool)) or not math.isfinite(value):
        return None
    return float(value)


def _best_rows(rows: Sequence[Sequence[Cell]], span: range, index: int, column: Column) -> list[int]:
    numbers = {row: value for row in span if (value := _number(rows[row][index])) is not None}
    if not column.better or len(numbers) < 2:
        return []
    target = min(numbers.values()) if column.better == "lower" else max(numbers.values())
    return [row for row, value in numbers.items() if value == target]


def _shown(cell: Cell, column: Column, best: bool, top: float) -> ShownCell:
    if isinstance(cell, str):
        return ShownCell(cell)
    value = _number(cell)
    if value is None:
        return ShownCell(NOTHING)
    error = cell.error if isinstance(cell, Measured) else None
    text = thousands(value * column.scale, column.decimals, signed=column.signed)
    spread = "" if error is None else f"± {thousands(error * column.scale, column.decimals)}"
    bar = round(100 * max(value, 0.0) / top, 1) if column.bars and top > 0 else None
    return ShownCell(text, spread, best, bar)

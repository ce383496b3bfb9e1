"""A comparison of methods on several training sets: mean, spread, and paired differences with Student's t.

A run is one training: (training set, network, method, seed) -> test error.  Runs of one seed are pairs.  A mean stands
with the standard deviation over seeds, a difference with half of its 95 % interval by Student's t over the seeds'
paired differences (Student 1908): t(0.975, n - 1) s / sqrt(n).  What a seed covers the caller says.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.table import Column, Measured, Table, shown_rows
from runtime.errors import UserError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Run:
    """One finished training.  error: lower is better, a share for classes, in the labels' unit else.

    rate: the learning rate, where each row has its own.
    """

    training_set: str
    network: str
    method: str
    seed: int
    error: float
    rate: float | None = None


@dataclass(frozen=True)
class Difference:
    """Mean of n paired differences; half: half of its 95 % interval, None for fewer than two pairs."""

    mean: float
    half: float | None
    pairs: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves out 0, else 0."""
        return 0 if self.half is None or abs(self.mean) <= self.half else int(math.copysign(1, self.mean))


@dataclass(frozen=True)
class Line:
    """One row: a method on a training set with a network.  None where there is nothing to compare with."""

    training_set: str
    network: str
    method: str
    seeds: int
    mean: float
    spread: float | None  # sample standard deviation over the seeds
    to_baseline: Difference | None  # minus the baseline: the first method on the first set, same network
    to_first_set: Difference | None  # minus the same method on the first set: what the set adds
    rate: float | None = None


def paired_difference(ours: Sequence[float], others: Sequence[float]) -> Difference:
    """Mean of ours - others with Student's t; both of the same seeds in the same order."""
    from scipy.stats import t

    values = np.asarray(ours, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    n = len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Difference(float(values.mean()), half, n)


@dataclass(frozen=True)
class Comparison:
    """Lines in the order of networks, sets and methods.  unit, scale: of the error; covers: what a seed covers."""

    lines: tuple[Line, ...]
    unit: str
    scale: float
    covers: str

    @staticmethod
    def of(runs: Iterable[Run], unit: str, scale: float, covers: str) -> Comparison:
        """UserError for no runs or an error that is no number."""
        errors: dict[tuple[str, str, str], dict[int, float]] = {}
        rates: dict[tuple[str, str, str], float | None] = {}
        for run in runs:
            if not math.isfinite(run.error):
                raise UserError(f"{run.method} on {run.training_set}, seed {run.seed}: the error is not a number.")
            row = run.network, run.training_set, run.method
            errors.setdefault(row, {})[run.seed] = run.error
            rates[row] = run.rate
        if not errors:
            raise UserError("there are no runs to compare; finish at least one.")
        first_set, first_method = next(iter(errors))[1:]
        lines = []
        for (network, training_set, method), own in errors.items():
            values = np.array(list(own.values()))
            is_base = (training_set, method) == (first_set, first_method)
            baseline = None if is_base else errors.get((network, first_set, first_method))
            alone = None if training_set == first_set else errors.get((network, first_set, method))
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            lines.append(
                Line(
                    training_set, network, method, len(own), float(values.mean()), spread,
                    _paired(own, baseline), _paired(own, alone), rates[network, training_set, method],
                )
            )  # fmt: skip
        return Comparison(tuple(lines), unit, scale, covers)

    @property
    def baseline(self) -> str:
        """Its name."""
        return f"{self.lines[0].method} on {self.lines[0].training_set}"

    def verdict(self) -> str:
        """How often the further training sets lower the error of the same method beyond the interval, and raise it."""
        compared = [line for line in self.lines if line.to_first_set is not None]
        if not compared:
            return "One training set alone: nothing says what the fakes are worth."
        signs = [line.to_first_set.sign for line in compared if line.to_first_set is not None]
        unresolved = sum(sign == 0 for sign in signs)
        return (
            f"Of {len(compared)} rows with another training set than {self.lines[0].training_set}, "
            f"{sum(sign < 0 for sign in signs)} have a lower error than the same method on it, "
            f"{sum(sign > 0 for sign in signs)} a higher one, {unresolved} are not resolved."
        )

    def table(self, further: Comparison | None = None, trained: str = "") -> Table:
        """For a terminal and the page.  further: the same rows trained otherwise, as a column; trained: how."""
        first = self.lines[0].training_set
        columns = [
            Column("method", numeric=False),
            Column("training set", numeric=False),
            Column("test error", self.unit, decimals=2, scale=self.scale, better="lower"),
            Column(f"minus {self.baseline}", decimals=2, scale=self.scale, signed=True),
            Column(f"minus the same on {first}", decimals=2, scale=self.scale, signed=True),
            Column("seeds", decimals=0),
        ]
        beside = {} if further is None else {_row(line): line for line in further.lines}
        columns += [Column(f"test error {trained}", self.unit, decimals=2, scale=self.scale)] if beside else []
        rated = any(line.rate is not None for line in self.lines)
        columns += [Column("learning rate", numeric=False)] if rated else []
        rows: list[list[Any]] = []
        groups: dict[int, str] = {}
        for line in self.lines:
            if line.network not in groups.values():
                groups[len(rows)] = line.network
            differences = [_measured(line.to_baseline), _measured(line.to_first_set)]
            row: list[Any] = [
                line.method,
                line.training_set,
                Measured(line.mean, line.spread),
                *differences,
                line.seeds,
            ]
            row += [Measured(beside[_row(line)].mean, beside[_row(line)].spread)] if beside else []
            rows.append([*row, f"{line.rate:g}"] if rated else row)
        caption = (
            f"Mean ± standard deviation over seeds; paired difference ± half of its {CONFIDENCE:.0%} interval by "
            f"Student's t. A seed covers {self.covers}. Equal steps for every row; lower is better."
        )
        return Table("Methods, on each training set", columns, rows, caption=caption, groups=groups)

    def csv(self, further: Comparison | None = None) -> str:
        """One line a row, unscaled; empty where there is nothing to compare with.  further: as in `table`."""
        stream = io.StringIO()
        names = ["network", "training_set", "method", "seeds", "mean", "standard_deviation"]
        pairs = [f"{name}{end}" for name in ("to_baseline", "to_first_set") for end in ("", "_half_interval")]
        writer = csv.writer(stream, lineterminator="\n")
        beside = {} if further is None else {_row(line): line for line in further.lines}
        more = ["further_mean", "further_standard_deviation"] if beside else []
        writer.writerow([*names, *pairs, "learning_rate", *more])
        for line in self.lines:
            differences = [line.to_baseline, line.to_first_set]
            numbers = [value for one in differences for value in ((one.mean, one.half) if one else (None, None))]
            writer.writerow(
                [
                    line.network,
                    line.training_set,
                    line.method,
                    line.seeds,
                    *map(_text, [line.mean, line.spread, *numbers, line.rate]),
                    *([_text(beside[_row(line)].mean), _text(beside[_row(line)].spread)] if beside else []),
                ]
            )
        return stream.getvalue()

    @staticmethod
    def latex(table: Table) -> str:
        """A table of these as a tabular of booktabs."""
        columns = "".join("r" if column.numeric else "l" for column in table.columns)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines.append(" & ".join(_latex(column.heading) for column in table.columns) + r" \\")
        for row in shown_rows(table):
            if row.heading:
                lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{{_latex(row.heading)}}} \\"]
            cells = [_latex(f"{cell.text} {cell.error}".strip()) for cell in row.cells]
            marked = [rf"\textbf{{{text}}}" if cell.best else text for text, cell in zip(cells, row.cells, strict=True)]
            lines.append(" & ".join(marked) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {table.caption}"]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Numbers unscaled."""
        lines = [asdict(line) for line in self.lines]
        return {"baseline": self.baseline, "unit": self.unit, "covers": self.covers, "lines": lines}


def _row(line: Line) -> tuple[str, str, str]:
    return line.network, line.training_set, line.method


def _paired(own: dict[int, float], other: dict[int, float] | None) -> Difference | None:
    seeds = [seed for seed in own if other is not None and seed in other]
    if other is None or not seeds:
        return None
    return paired_difference([own[seed] for seed in seeds], [other[seed] for seed in seeds])


def _measured(difference: Difference | None) -> Measured | None:
    return None if difference is None else Measured(difference.mean, difference.half)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "−": "$-$", "–": "--", "\u2009": r"\,", "~": r"\textasciitilde{}"}


def _latex(text: str) -> str:
    """Text of any name as LaTeX prints it."""
    return "".join(_LATEX.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)

"""The table of methods: mean, spread over seeds, and paired differences against a baseline.

Rows of different protocols ("equal steps", "published epochs") are never compared with one another: more steps are an
advantage of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.table import Cell, Column, Measured, Table, table_text
from runtime.errors import UserError

EQUAL_STEPS = "equal steps"


@dataclass(frozen=True)
class MethodScore:
    """One finished run.  `score`: lower is better; `seed` pairs runs of different methods."""

    method: str
    seed: int
    score: float
    protocol: str = EQUAL_STEPS


@dataclass(frozen=True)
class MethodLine:
    """One method under one protocol.  Differences are method minus baseline over the seeds that both have."""

    method: str
    protocol: str
    runs: int
    mean: float
    spread: float | None  # sample standard deviation over the seeds; None for one run
    difference: float | None  # mean paired difference; negative is better; None where no seed is shared
    difference_error: float | None  # its standard error; None for fewer than two shared seeds
    pairs: int


@dataclass(frozen=True)
class MethodTable:
    """Lines in the order in which the methods first came.  `scale` and `unit` are for the text only."""

    baseline: str
    lines: tuple[MethodLine, ...]
    unit: str
    scale: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON for the report; numbers unscaled."""
        return {
            "baseline": self.baseline,
            "unit": self.unit,
            "scale": self.scale,
            "lines": [asdict(line) for line in self.lines],
        }

    def table(self) -> Table:
        """Mean ± standard deviation over seeds; paired difference ± its standard error."""
        columns = [
            *(Column(name, numeric=False) for name in ("method", "protocol")),
            Column("runs", decimals=0),
            Column(self.unit, decimals=2, scale=self.scale, better="lower"),
            Column(f"minus {self.baseline}", decimals=2, scale=self.scale, signed=True),
            Column("pairs", decimals=0),
        ]
        rows: list[list[Cell]] = []
        for line in self.lines:
            difference: tuple[Cell, Cell] = ("", "")
            if line.method != self.baseline and line.difference is not None:
                difference = Measured(line.difference, line.difference_error), line.pairs
            elif line.method != self.baseline:
                difference = "no shared seed", line.pairs
            rows.append([line.method, line.protocol, line.runs, Measured(line.mean, line.spread), *difference])
        note = "(mean ± standard deviation over seeds; difference ± its standard error; lower is better)"
        return Table("Methods", columns, rows, caption=note)

    def render(self) -> str:
        """Plain text for a terminal."""
        table = self.table()
        return f"{table_text(table)}\n{table.caption}"


def compare_methods(
    scores: Sequence[MethodScore], baseline: str, unit: str = "error, %", scale: float = 100.0
) -> MethodTable:
    """Gather the runs into a table.  Raises UserError for no runs, an unknown baseline, or a run given twice."""
    if not scores:
        raise UserError("there are no runs to compare; finish at least one.")
    gathered: dict[tuple[str, str], dict[int, float]] = {}
    for entry in scores:
        runs = gathered.setdefault((entry.method, entry.protocol), {})
        if entry.seed in runs:
            raise UserError(f"method {entry.method} ({entry.protocol}) has two runs with seed {entry.seed}; give one.")
        if not np.isfinite(entry.score):
            raise UserError(f"method {entry.method}, seed {entry.seed}: the score is not a number; train it again.")
        runs[entry.seed] = entry.score
    if baseline not in {method for method, _ in gathered}:
        known = ", ".join(dict.fromkeys(method for method, _ in gathered))
        raise UserError(f"baseline {baseline!r} is not among the methods ({known}).")
    lines = [
        _line(method, protocol, runs, gathered.get((baseline, protocol), {}))
        for (method, protocol), runs in gathered.items()
    ]
    return MethodTable(baseline, tuple(lines), unit, scale)


def _line(method: str, protocol: str, runs: dict[int, float], base: dict[int, float]) -> MethodLine:
    values = np.array(list(runs.values()))
    differences = np.array([score - base[seed] for seed, score in runs.items() if seed in base])
    pairs = len(differences)
    return MethodLine(
        method=method,
        protocol=protocol,
        runs=len(values),
        mean=float(values.mean()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else None,
        difference=float(differences.mean()) if pairs else None,
        difference_error=float(differences.std(ddof=1) / np.sqrt(pairs)) if pairs > 1 else None,
        pairs=pairs,
    )

"""A learning rate for each row of a comparison, chosen on the first seed's validation images.

One rate for all methods is no fair table: a rate that suits cross entropy makes another loss diverge.  Each row trains
once a rate at the first seed, without a look at test images; the lowest validation error is taken, among equal ones the
lowest cross entropy, then the rate named first.  The rows themselves are trained anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from commands.support.compared import ComparedCell
from runtime.errors import UserError
from runtime.safe_files import read_sealed_json, write_sealed_json
from training.loop import NotFinite

Row = tuple[str, str, str]
_REMEDY = "remove its folder, and the comparison trains it again"


class RateCell(ComparedCell):
    """A training that is validated only; one that diverges has no error, and is never chosen."""

    def run(self) -> None:
        """Train, or continue."""
        try:
            super().run()
        except NotFinite as error:
            write_sealed_json(self.result, {"val_score": None, "val_cross_entropy": None, "reason": str(error)})

    def validation(self) -> tuple[float, float]:
        """(error, cross entropy or the error again)."""
        result = read_sealed_json(self.result, _REMEDY)
        error, cross_entropy = result["val_score"], result["val_cross_entropy"]
        if error is None:
            return math.inf, math.inf
        return error, error if cross_entropy is None else cross_entropy


def rate_cells(cells: Sequence[ComparedCell], rates: Sequence[float], folder: Path) -> dict[Row, list[RateCell]]:
    """For each row its trainings of the first seed, one a rate."""
    trials: dict[Row, list[RateCell]] = {}
    for cell in cells:
        home = folder / "rates" / cell.place().relative_to(folder / "cells")
        given = [
            {**cell.options, "lr": rate, "test": False, "out": str(home / f"lr{rate}" / "training")} for rate in rates
        ]
        trials[cell.row] = [RateCell(cell.training_set, cell.network, cell.method, cell.seed, one) for one in given]
    return trials


def chosen(trials: dict[Row, list[RateCell]]) -> dict[Row, float]:
    """The rate of each row.  UserError where all of them diverged."""
    rates = {}
    for row, cells in trials.items():
        best = min(cells, key=RateCell.validation)
        if math.isinf(best.validation()[0]):
            raise UserError(f"{row[2]} on {row[1]}: the training diverges at each of --learning-rates; add lower ones.")
        rates[row] = float(best.options["lr"])
    return rates

"""The comparison's numbers: pairs by seed, Student's t against SciPy's own test, and the same text for every run."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from evaluation.comparison import Comparison, Run, paired_difference
from runtime.errors import UserError

ERRORS = st.lists(st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 2), min_size=2, max_size=8)


@given(ERRORS)
def test_the_interval_is_that_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, others = (np.array(values) for values in zip(*pairs, strict=True))
    difference = paired_difference(ours.tolist(), others.tolist())
    spread = (ours - others).std(ddof=1)
    assert difference.pairs == len(pairs)
    assert difference.half is not None
    assert difference.mean == pytest.approx((ours - others).mean(), abs=1e-12)
    if spread > 1e-6:
        interval = ttest_rel(ours, others).confidence_interval(0.95)
        assert (difference.mean - difference.half, difference.mean + difference.half) == pytest.approx(tuple(interval))


def test_one_pair_has_no_interval_and_resolves_nothing() -> None:
    difference = paired_difference([0.1], [0.3])
    assert difference.half is None
    assert difference.sign == 0


def runs() -> list[Run]:
    table = {("real", "none"): (0.30, 0.32, 0.31), ("real", "a & b_c"): (0.28, 0.29, 0.28),
             ("fakes", "none"): (0.20, 0.22, 0.21), ("fakes", "a & b_c"): (0.28, 0.30, 0.27)}  # fmt: skip
    return [Run(*key[:1], "net", key[1], seed, error) for key, row in table.items() for seed, error in enumerate(row)]


def test_rows_pairs_and_verdict() -> None:
    comparison = Comparison.of(runs(), "%", 100.0, "training")
    by_name = {(line.training_set, line.method): line for line in comparison.lines}
    assert comparison.baseline == "none on real"
    assert by_name["real", "none"].to_baseline is None
    assert by_name["real", "a & b_c"].to_first_set is None
    lower, same = by_name["fakes", "none"].to_first_set, by_name["fakes", "a & b_c"].to_first_set
    assert lower is not None
    assert same is not None
    assert lower.mean == pytest.approx(-0.1)
    assert lower.sign == -1
    assert same.sign == 0
    assert comparison.verdict().startswith("Of 2 rows with another training set than real, 1 have a lower error")
    assert "1 are not resolved" in comparison.verdict()


def test_pairs_are_the_seeds_that_both_have() -> None:
    some = [run for run in runs() if (run.training_set, run.method, run.seed) != ("real", "none", 1)]
    line = next(line for line in Comparison.of(some, "%", 100.0, "training").lines if line.training_set == "fakes")
    assert line.seeds == 3
    assert line.to_first_set is not None
    assert line.to_first_set.pairs == 2


def test_csv_and_latex_hold_the_table() -> None:
    comparison = Comparison.of(runs(), "%", 100.0, "training")
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert [float(row["mean"]) for row in rows] == pytest.approx([line.mean for line in comparison.lines])
    assert rows[0]["to_baseline"] == ""
    assert float(rows[2]["to_first_set"]) == pytest.approx(-0.1)
    both = list(csv.DictReader(io.StringIO(comparison.csv(comparison))))
    assert [row["further_mean"] for row in both] == [row["mean"] for row in both]
    assert comparison.latex(comparison.table(comparison, "after 2 epochs")).count("after 2 epochs") == 1
    latex = comparison.latex(comparison.table())
    assert r"a \& b\_c" in latex
    assert r"\%" in latex
    assert r"\textbf{21.00 $\pm$ 1.00}" in latex
    assert latex.count(r"\\") == 1 + 1 + 4  # headings, the network, the rows


def test_no_run_and_no_number_are_refused() -> None:
    with pytest.raises(UserError, match="no runs to compare"):
        Comparison.of([], "%", 100.0, "training")
    with pytest.raises(UserError, match="seed 1: the error is not a number"):
        Comparison.of([Run("real", "net", "none", 1, float("nan"))], "%", 100.0, "training")

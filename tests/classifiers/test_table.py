"""The table of methods against a slow twin, and what it refuses."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.method_table import MethodScore, compare_methods
from runtime.errors import UserError


@given(
    st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=1),
    st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_numbers_equal_the_twin(base: dict[int, float], other: dict[int, float]) -> None:
    scores = [MethodScore("NOKD", seed, score) for seed, score in base.items()]
    scores += [MethodScore("BLKD", seed, score) for seed, score in other.items()]
    line = compare_methods(scores, "NOKD").lines[1]
    assert line.runs == len(other)
    assert line.mean == pytest.approx(statistics.mean(other.values()))
    if len(other) > 1:
        assert line.spread == pytest.approx(statistics.stdev(other.values()))
    shared = [other[seed] - base[seed] for seed in other if seed in base]
    assert line.pairs == len(shared)
    assert line.difference == (pytest.approx(statistics.mean(shared)) if shared else None)
    if len(shared) > 1:
        assert line.difference_error == pytest.approx(statistics.stdev(shared) / len(shared) ** 0.5)
    else:
        assert line.difference_error is None


def test_text_and_dictionary() -> None:
    scores = [MethodScore("NOKD", seed, score) for seed, score in enumerate((0.10, 0.12, 0.14))]
    scores += [MethodScore("fakes", seed, score) for seed, score in enumerate((0.09, 0.10, 0.11))]
    scores += [MethodScore("fakes", 7, 0.05, "published epochs")]
    table = compare_methods(scores, "NOKD")
    text = table.render().splitlines()
    assert text[0].split() == ["method", "protocol", "runs", "error,", "%", "minus", "NOKD", "pairs"]
    assert text[2].split() == ["NOKD", "equal", "steps", "3", "12.00", "±", "2.00"]
    assert text[3].split() == ["fakes", "equal", "steps", "3", "10.00", "±", "1.00", "-2.00", "±", "0.58", "3"]
    assert "no shared seed" in text[4]  # more steps are not compared with the baseline at equal steps
    assert json.loads(json.dumps(table.to_dict()))["lines"][1]["mean"] == pytest.approx(0.10)


def test_bad_tables_are_refused() -> None:
    run = MethodScore("NOKD", 0, 0.1)
    with pytest.raises(UserError, match="no runs"):
        compare_methods([], "NOKD")
    with pytest.raises(UserError, match=r"two runs with seed 0"):
        compare_methods([run, run], "NOKD")
    with pytest.raises(UserError, match=r"baseline 'BLKD' is not among the methods \(NOKD\)"):
        compare_methods([run], "BLKD")
    with pytest.raises(UserError, match="not a number"):
        compare_methods([MethodScore("NOKD", 0, float("nan"))], "NOKD")

"""An option that would do nothing is refused in one sentence that names it."""

from __future__ import annotations

from typing import Any

import pytest

import cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score --filter f", "--filter is for --nearest"),
        ("score --data digits --predictor p", "--data is for --nearest"),
        ("score --fold 0", "--fold is for --nearest"),
        ("score --real-per-class 3", "--real-per-class is for --nearest"),
        ("score --nearest --workers 2", "--workers is for --predictor"),
        ("score --nearest --engine ray", "--engine is for --predictor"),
        ("export-h5 --scope global", "--scope says how --rho cuts"),
        ("export-h5 --cut strict --rho 1", "--cut says how --rho cuts"),
        ("verify --seed 3", "--seed does nothing for verify"),
        ("verify --workers 2", "--workers does nothing for verify"),
    ],
)
def test_it_is_refused_before_anything_is_looked_for(words: str, said: str, capsys: Any, tmp_path: Any) -> None:
    assert cli.main([*words.split(), "--workspace", str(tmp_path / "w")]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert told.count("\n") == 0
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("words", ["score", "score --nearest", "score --nearest --predictor p --workers 2", "verify"])
def test_what_is_used_gets_as_far_as_the_fakes(words: str, capsys: Any, tmp_path: Any) -> None:
    assert cli.main([*words.split(), "--workspace", str(tmp_path / "w")]) == 2
    assert "no fakes in" in capsys.readouterr().err

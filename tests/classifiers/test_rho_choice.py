"""Which rho is chosen: resolved from rho 1 over seeds and images, or rho 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from classifiers.rho_choice import choose, explained, render, write_choice
from classifiers.rho_race import Race
from classifiers.rho_search import Cell, CellResult
from evaluation.report import RhoCurve, write_png, write_svg
from runtime.errors import UserError
from runtime.safe_files.sealed_json import open_seal

IMAGES = 60


def results_from(
    means: dict[float, float], seeds: int = 8, student: str = "vgg8", luck: float = 0.005
) -> list[CellResult]:
    """Made-up cells: each rho's mean, luck of each training, and images of unequal difficulty."""
    random = np.random.default_rng(11)
    difficulty = 0.05 * random.normal(size=IMAGES)
    return [
        CellResult(
            Cell(rho, student, seed),
            tuple(mean + luck * random.normal() + difficulty + 0.01 * random.normal(size=IMAGES)),
            (),
            {},
        )
        for seed in range(seeds)
        for rho, mean in means.items()
    ]


def test_a_rho_that_is_resolved_from_rho_1_is_chosen() -> None:
    choice = choose(results_from({0.5: 0.30, 0.7: 0.10, 0.9: 0.15, 1.0: 0.20}))
    assert (choice.rho, choice.best_rho, choice.resolved) == (0.7, 0.7, True)
    assert [line.sign for line in choice.lines] == [1, -1, -1, 0]
    table = render(choice)
    assert "< chosen" in next(line for line in table.splitlines() if line.strip().startswith("0.70"))
    assert "rho 0.70: the lowest error, -" in table
    assert "over training seeds and 60 validation images, of 3 rhos together" in table


def test_what_is_not_resolved_is_rho_1_and_says_so(tmp_path: Path) -> None:
    """In the table, the JSON, the file's comments and the plot."""
    choice = choose(results_from({0.5: 0.198, 0.7: 0.199, 1.0: 0.2}, luck=0.02))
    assert (choice.rho, choice.resolved) == (1.0, False)
    assert "not resolved: rho 1" in render(choice)
    assert json.loads(json.dumps(choice.to_dict()))["resolved"] is False
    write_choice(choice, tmp_path / "choice.yaml")
    assert "# not resolved: rho 1" in (tmp_path / "choice.yaml").read_text()
    assert "not resolved" in write_svg(RhoCurve.of_choice(choice.to_dict()), tmp_path / "rho.svg").read_text()


def test_the_interval_is_wider_with_more_rhos() -> None:
    """The lowest of many looks better than it is."""
    many = results_from({round(0.3 + 0.1 * step, 2): 0.2 for step in range(8)})
    few = [result for result in many if result.cell.rho in (0.3, 1.0)]
    wide, narrow = choose(many).lines[0], choose(few).lines[0]
    assert wide.standard_error == pytest.approx(narrow.standard_error)
    assert wide.half > 1.4 * narrow.half


def test_one_seed_resolves_nothing() -> None:
    choice = choose(results_from({0.5: 0.1, 1.0: 0.5}, seeds=1))
    assert (choice.rho, choice.best_rho) == (1.0, 0.5)
    assert "one seed has no spread" in render(choice)
    assert "no other" in render(choose(results_from({1.0: 0.5}, seeds=1)))
    assert explained(choose(results_from({0.5: 0.5, 1.0: 0.1})))[0] == "rho 1: its error is the lowest."


def test_a_dropped_rho_is_shown_and_never_chosen() -> None:
    race = Race(0.05, 8)
    whole = results_from({0.5: 0.1, 0.7: 0.5, 1.0: 0.2})
    spared = [result for result in whole if result.cell.rho != 0.7 or result.cell.seed < 3]
    choice = choose(spared, race)
    assert choice.rho == 0.5
    assert [line.seeds for line in choice.lines] == [8, 3, 8]
    assert "dropped: 39.5" in render(choice)
    assert "1 of 2 rhos dropped; the risk that the best is among them is at most 0.05." in render(choice)
    assert RhoCurve.of_choice(choice.to_dict()).dropped == [0.7]
    assert choose(whole, race).to_dict() == choice.to_dict()
    with pytest.raises(UserError, match=r"rho 0\.7 lacks cells of some seeds"):
        choose(spared)


def test_students_are_averaged_before_seeds_and_can_be_asked_alone(tmp_path: Path) -> None:
    results = results_from({0.5: 0.1, 1.0: 0.3}, 4, "resnet8") + results_from({0.5: 0.35, 1.0: 0.3}, 4, "vgg8")
    both, alone = choose(results), choose(results, student="resnet8")
    assert both.lines[0].mean == pytest.approx((0.1 + 0.35) / 2, abs=0.01)
    assert set(both.lines[0].by_student) == {"resnet8", "vgg8"}
    assert (both.rho, alone.rho, choose(results, student="vgg8").rho) == (0.5, 0.5, 1.0)
    write_choice(both, tmp_path / "both.yaml")
    write_choice(alone, tmp_path / "alone.yaml")
    write_choice(alone, tmp_path / "half.yaml", half := {"name": "resnet8", "width": 0.5})
    for name, wanted in (
        ("both", {"rho": 0.5}),
        ("alone", {"rho": 0.5, "network": "resnet8"}),
        ("half", {"rho": 0.5, "network": half}),
    ):
        written = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        assert open_seal(written)
        assert written == wanted
    curve = RhoCurve.of_choice(both.to_dict(), "validation error, %", 100.0)
    assert set(curve.by_student) == set(both.students)
    assert write_png(curve, tmp_path / "rho.png").read_bytes().startswith(b"\x89PNG")
    assert write_svg(curve, tmp_path / "rho.svg").read_bytes() == (
        write_svg(curve, tmp_path / "again.svg").read_bytes()
    )


def test_rho_1_must_be_there() -> None:
    with pytest.raises(UserError, match="rho 1, with which the others are compared"):
        choose(results_from({0.5: 0.3}))


def test_the_choice_of_an_earlier_version_is_still_drawn(tmp_path: Path) -> None:
    lines = [
        {"rho": rho, "mean": mean, "standard_error": 0.1, "seeds": 2, "pruned": 0, "by_student": {"vgg8": 0.2}}
        for rho, mean in ((0.5, 0.2), (0.7, None), (1.0, 0.3))
    ]
    old = {"rho": 0.5, "best_rho": 0.5, "limit": 0.3, "students": ["vgg8"], "lines": lines}
    curve = RhoCurve.of_choice(old)
    assert (curve.rhos, curve.baseline, curve.bars) == ([0.5, 1.0], None, "one standard error over seeds")
    assert write_svg(curve, tmp_path / "rho.svg").is_file()

"""The rho grid: killed and continued, shared by processes, stale claims, pruning, the one-standard-error rule."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers import STUDENTS, ClassifierSettings, train_classifier
from classifiers.rho_choice import choose, render, rho_lines, write_choice
from classifiers.rho_search import Cell, CellReport, CellResult, grid, read_results, search
from evaluation.report import RhoCurve, write_png, write_svg
from image_data.real import load_real
from runtime.claims import STALE_AFTER_SECONDS, is_stale, process_start, try_claim
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.safe_files.sealed_json import open_seal
from tests.support.sealed_cards import reseal

RHOS = (0.5, 0.7, 1.0)
CELLS = grid(RHOS, ("vgg8",), (0, 1))


def curve(cell: Cell) -> list[tuple[int, float]]:
    """A made-up learning curve: best at rho 0.7, the same for everyone who asks."""
    end = 0.1 + (cell.rho - 0.7) ** 2 + 0.001 * cell.seed
    return [(step, end + 0.5 / step) for step in (1, 2, 4)]


def quick_cell(cell: Cell, report: CellReport) -> dict[str, Any]:
    """Writes down who ran it, and reports a curve."""
    with (report.folder / "runs.txt").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    for step, score in curve(cell):
        report(step, score)
    return {"score": curve(cell)[-1][1], "student_folder": report.folder.name}


def slow_cell(cell: Cell, report: CellReport) -> dict[str, Any]:
    time.sleep(0.2)
    return quick_cell(cell, report)


def training_cell(cell: Cell, report: CellReport) -> dict[str, Any]:
    """A real training: rho picks the share of the training digits."""
    data = load_real("digits", real_per_class=10)
    keep = data.train.subset(np.arange(round(cell.rho * len(data.train))))
    options = ClassifierSettings(
        network=STUDENTS.choose(cell.student, {"width": 0.0625}),
        steps=8, batch_size=16, seed=cell.seed, validate_every_steps=4,
    )  # fmt: skip
    folder = report.folder / "training"
    found = train_classifier(
        keep, data.val, data.label_space, options, folder, torch.device("cpu"), (), on_validation=report
    )
    return {"score": found["val_score"], "steps": found["steps"]}


def files(out: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in out.glob("cells/*/result.json")}


def test_grid_is_seed_by_seed_and_refuses_nonsense() -> None:
    assert [(cell.seed, cell.rho) for cell in CELLS] == [(0, 0.5), (0, 0.7), (0, 1.0), (1, 0.5), (1, 0.7), (1, 1.0)]
    assert CELLS[1].name == "rho0.70-vgg8-seed0"
    for rhos in ((), (0.0,), (1.01,), (-0.5,), (float("nan"),), (0.333,), (0.5, 0.5)):
        with pytest.raises(UserError, match="rho"):
            grid(rhos, ("vgg8",), (0,))
    with pytest.raises(UserError, match="empty"):
        grid(RHOS, (), (0,))
    with pytest.raises(UserError, match="empty"):
        search([], quick_cell, Path("nowhere"))


KILLED = """
import sys, torch
from pathlib import Path
from classifiers.rho_search import search
from tests.classifiers.test_rho_search import CELLS, training_cell
torch.set_num_threads(1)
search(CELLS[:3], training_cell, Path(sys.argv[1]))
"""


def test_a_killed_search_continues_to_the_same_results(tmp_path: Path) -> None:
    """SIGKILL while the second cell's result is written: the claim is left behind, the result is not there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RETORT_FAILURE_POINT": "atomic.before_rename:8"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(files(tmp_path / "killed")) == 1
    assert list((tmp_path / "killed").glob("cells/*/claim.0"))
    results = search(CELLS[:3], training_cell, tmp_path / "killed")
    assert results == search(CELLS[:3], training_cell, tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert all([step for step, _ in result.curve] == [4, 8] for result in results)
    assert not list((tmp_path / "killed").glob("cells/*/claim.1"))


def test_two_processes_share_the_cells(tmp_path: Path) -> None:
    """Each cell is run once, and the results are those of one process."""
    results = search(CELLS, slow_cell, tmp_path / "two", engine=LocalEngine(2))
    assert results == search(CELLS, quick_cell, tmp_path / "one")
    assert files(tmp_path / "two") == files(tmp_path / "one")
    owners = [path.read_text().split() for path in (tmp_path / "two").glob("cells/*/runs.txt")]
    assert len(owners) == len(CELLS)
    assert all(len(owner) == 1 for owner in owners)
    assert str(os.getpid()) not in {owner[0] for owner in owners}


def test_a_failing_cell_lets_go_of_its_claim(tmp_path: Path) -> None:
    def fails(cell: Cell, report: CellReport) -> dict[str, Any]:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk is full"):
        search(CELLS, fails, tmp_path)
    assert not list(tmp_path.glob("cells/*/claim.*"))
    assert len(search(CELLS, quick_cell, tmp_path)) == len(CELLS)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a number"):
        search(CELLS, lambda cell, report: {"score": float("nan")}, tmp_path)
    assert files(tmp_path) == {}


def _write_claim(folder: Path, generation: int, **owner: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"claim.{generation}"
    path.write_text(json.dumps(owner))
    return path


def test_claims_of_the_living_hold_and_of_the_dead_do_not(tmp_path: Path) -> None:
    here, mine = socket.gethostname(), process_start(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive = {"pid": os.getpid(), "host": here, "started": mine}
    assert not is_stale(_write_claim(tmp_path / "alive", 0, **alive))
    assert is_stale(_write_claim(tmp_path / "dead", 0, pid=gone.pid, host=here, started=1))
    assert is_stale(_write_claim(tmp_path / "reused", 0, pid=os.getpid(), host=here, started=(mine or 2) - 1))
    far = _write_claim(tmp_path / "far", 0, pid=gone.pid, host="another-machine", started=1)
    assert not is_stale(far)
    os.utime(far, (time.time() - 2 * STALE_AFTER_SECONDS,) * 2)
    assert is_stale(far)
    empty = _write_claim(tmp_path / "empty", 0)
    empty.write_text("")
    assert not is_stale(empty)
    os.utime(empty, (0, 0))
    assert is_stale(empty)
    assert not is_stale(tmp_path / "let go")
    assert try_claim(tmp_path / "alive") is None
    for name in ("dead", "reused", "far", "empty"):
        claim = try_claim(tmp_path / name)
        assert claim is not None
        assert claim.path.name == "claim.1"  # the stale one stays: only the maker of the next number takes over
        assert try_claim(tmp_path / name) is None
        with claim:
            pass
        assert not claim.path.exists()


def test_a_zombie_owns_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {"pid": child.pid, "host": socket.gethostname(), "started": process_start(child.pid)}
    path = _write_claim(tmp_path, 0, **owner)
    assert not is_stale(path)
    child.kill()
    deadline = time.monotonic() + 10
    while not is_stale(path) and time.monotonic() < deadline:  # killed, but not yet collected by this process
        time.sleep(0.01)
    assert is_stale(path)
    child.communicate()


def test_pruned_cells_are_marked_and_never_chosen(tmp_path: Path) -> None:
    cells = grid((0.3, 0.6, 0.7, 0.8, 1.0), ("vgg8",), (0, 1))
    results = search(sorted(cells, key=lambda cell: (cell.seed, abs(cell.rho - 0.7))), quick_cell, tmp_path, prune=True)
    pruned = {(result.cell.rho, result.cell.seed) for result in results if result.pruned}
    assert pruned == {(0.3, 0), (1.0, 0), (0.3, 1), (1.0, 1)}
    assert all(result.score is None for result in results if result.pruned)
    runs = {path.parent.name for path in tmp_path.glob("cells/*/runs.txt")}
    assert "rho0.30-vgg8-seed1" not in runs  # its rho was out of the race already
    choice = choose(results)
    assert choice.best_rho == 0.7
    assert choice.rho in (0.6, 0.7, 0.8)
    assert "pruned (2)" in render(choice)


def results_from(table: dict[float, list[float]], student: str = "vgg8") -> list[CellResult]:
    return [
        CellResult(Cell(rho, student, seed), score, False, (), {})
        for rho, scores in table.items()
        for seed, score in enumerate(scores)
    ]


@given(
    st.integers(1, 4).flatmap(
        lambda seeds: st.dictionaries(
            st.integers(1, 100).map(lambda percent: percent / 100),
            st.lists(st.floats(0, 1), min_size=seeds, max_size=seeds),
            min_size=1,
            max_size=8,
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_one_standard_error_rule(table: dict[float, list[float]]) -> None:
    """The largest rho within the limit, by a plain loop; it never filters more than the best."""
    choice = choose(results_from(table))
    means = {rho: float(np.mean(scores)) for rho, scores in table.items()}
    best = max(rho for rho in means if means[rho] == min(means.values()))
    error = float(np.std(table[best], ddof=1) / np.sqrt(len(table[best]))) if len(table[best]) > 1 else 0.0
    expected = best
    for rho in sorted(means):
        if means[rho] <= means[best] + error and rho >= expected:
            expected = rho
    assert choice.best_rho == best
    assert choice.rho == expected >= best
    assert means[choice.rho] <= choice.limit


def test_students_are_averaged_before_seeds_and_can_be_asked_alone(tmp_path: Path) -> None:
    results = results_from({0.5: [0.1, 0.3], 1.0: [0.2, 0.2]}, "resnet8")
    results += results_from({0.5: [0.3, 0.1], 1.0: [0.3, 0.4]}, "vgg8")
    line = rho_lines(results)[0]
    assert line.mean == pytest.approx(0.2)
    assert line.standard_error == pytest.approx(0.0)  # the students' swings cancel within each seed
    both, alone = choose(results), choose(results, "resnet8")
    assert (both.rho, alone.rho) == (0.5, 1.0)
    write_choice(both, tmp_path / "both.yaml")
    write_choice(alone, tmp_path / "alone.yaml")
    write_choice(alone, tmp_path / "half.yaml", half := {"name": "resnet8", "width": 0.5})
    for name, wanted in (
        ("both", {"rho": 0.5}),
        ("alone", {"rho": 1.0, "network": "resnet8"}),
        ("half", {"rho": 1.0, "network": half}),
    ):
        written = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        assert open_seal(written)
        assert written == wanted
    assert json.loads(json.dumps(both.to_dict()))["rho"] == 0.5
    curve = RhoCurve.of_choice(both.to_dict(), "validation error, %", 100.0)
    assert set(curve.by_student) == set(both.students)
    assert write_png(curve, tmp_path / "rho.png").read_bytes().startswith(b"\x89PNG")
    assert write_svg(curve, tmp_path / "rho.svg").read_bytes().startswith(b"<?xml")
    assert write_svg(curve, tmp_path / "rho.svg").read_bytes() == (tmp_path / "rho.svg").read_bytes()


def test_unfinished_rhos_are_not_chosen() -> None:
    results = results_from({0.5: [0.3, 0.3], 0.7: [0.1]})
    assert choose(results).rho == 0.5
    with pytest.raises(UserError, match="no rho has all its cells"):
        choose([CellResult(CELLS[0], None, True, (), {})])


def test_damaged_and_foreign_results_are_named(tmp_path: Path) -> None:
    search(CELLS[:1], quick_cell, tmp_path)
    path = tmp_path / "cells" / CELLS[0].name / "result.json"
    whole = path.read_text()
    copy = tmp_path / "copy.json"
    copy.write_text(whole)
    path.write_text(whole[:20])
    with pytest.raises(UserError, match=r"result\.json is no readable JSON .*; delete it"):
        read_results(CELLS, tmp_path)
    path.write_text(whole.replace('"pruned": false', '"pruned": true'))
    with pytest.raises(UserError, match="its seal does not match"):
        read_results(CELLS, tmp_path)
    reseal(path, {"cell": {"rho": 0.4, "student": "vgg8", "seed": 0}}, copy)
    with pytest.raises(UserError, match="another cell"):
        read_results(CELLS, tmp_path)

"""The rho grid: killed and continued, shared by processes, stale claims, rounds of a race."""

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

from classifiers import STUDENTS, ClassifierSettings, train_classifier
from classifiers.predictor import load_classifier
from classifiers.rho_race import Dropped, Race
from classifiers.rho_search import Cell, CellReport, Groups, errors_by_rho, grid, read_costs, read_results, search
from classifiers.scoring import image_errors, outputs
from image_data.real import load_real
from runtime.claims import STALE_AFTER_SECONDS, is_stale, process_start, try_claim
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.safe_files import write_sealed_json
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
    return {"errors": image_errors_of(cell), "student_folder": report.folder.name}


def image_errors_of(cell: Cell) -> np.ndarray:
    """Of 50 made-up images: the curve's end, and what is the same for a seed and for an image."""
    return curve(cell)[-1][1] + 0.05 * np.sin(np.arange(50.0)) + 0.002 * np.cos(np.arange(50.0) * (cell.seed + 1))


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
    cpu = torch.device("cpu")
    found = train_classifier(keep, data.val, data.label_space, options, folder, cpu, (), on_validation=report)
    errors = image_errors(
        outputs(load_classifier(folder, cpu).network, data.val, cpu), data.val.labels, data.label_space
    )
    assert errors.mean() == pytest.approx(found["val_score"], rel=1e-12)
    return {"errors": errors, "steps": found["steps"]}


def files(out: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in out.glob("cells/*/result.json")}


def test_grid_is_seed_by_seed_and_refuses_nonsense() -> None:
    assert [(cell.seed, cell.rho) for cell in CELLS] == [(0, 0.5), (0, 0.7), (0, 1.0), (1, 0.5), (1, 0.7), (1, 1.0)]
    assert CELLS[1].name == "rho0.70-vgg8-seed0"
    assert [cell.rho for cell in grid((0.5,), ("vgg8",), (0,))] == [0.5, 1.0]  # with what it is compared
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
        search(CELLS, lambda cell, report: {"errors": [0.0, float("nan")]}, tmp_path)
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


def quick_group(cells: Any, reports: Any, folder: Path) -> list[dict[str, Any]]:
    """The cells of a group, as they are alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "runs.txt").open("a") as stream:
        stream.write(f"{len(cells)}\n")
    found = []
    for cell, report in zip(cells, reports, strict=True):
        for step, score in curve(cell):
            report(step, score)
        found.append({"errors": image_errors_of(cell), "student_folder": report.folder.name})
    return found


def test_groups_follow_from_the_grid_and_leave_each_cell_its_result(tmp_path: Path) -> None:
    """Of about equal size, each of one student; the results are those of single cells, and none is run twice."""
    cells = grid(RHOS, ("vgg8", "resnet8"), range(3))
    groups = Groups(quick_group, {"vgg8": 4, "resnet8": 1})
    assert [len(unit) for unit in groups.parted(cells)] == [3, 3, 3, *[1] * 9]
    assert sorted(cell for unit in groups.parted(cells) for cell in unit) == sorted(cells)
    results = search(cells, quick_cell, tmp_path / "groups", groups=groups)
    assert results == search(cells, quick_cell, tmp_path / "alone")
    assert files(tmp_path / "groups") == files(tmp_path / "alone")
    (tmp_path / "groups" / "cells" / cells[0].name / "result.json").unlink()
    assert search(cells, slow_cell, tmp_path / "groups", groups=groups, engine=LocalEngine(2)) == results
    ran = [path.read_text().split() for path in sorted((tmp_path / "groups" / "groups").glob("*/runs.txt"))]
    assert sorted(map(len, ran)) == [1, 1, 2]  # only the group of the lost result
    race = Race(risk=0.05, seeds=6)
    raced = search(FIVE, quick_cell, tmp_path / "race", race=race, groups=groups)
    assert raced == search(FIVE, quick_cell, tmp_path / "race alone", race=race)


class LateRace(Race):
    """Drops rho 0.3 after five seeds."""

    def dropped(self, errors: Any) -> list[Dropped]:
        return [Dropped(0.3, 5, 1.0, 0.2, 0.1)] if len(errors[1.0]) >= 5 else []


def test_groups_of_an_early_round_do_not_follow_from_a_later_look(tmp_path: Path) -> None:
    """A result that is lost in the fourth round is made again by the group that made it."""
    groups, race = Groups(quick_group, {"vgg8": 8}), LateRace(risk=0.05, seeds=6)
    results = search(FIVE, quick_cell, tmp_path, race=race, groups=groups)
    assert {rho: len(rows) for rho, rows in errors_by_rho(results).items()}[0.3] == 5
    made = {path.name for path in (tmp_path / "groups").iterdir()}
    (tmp_path / "cells" / "rho0.70-vgg8-seed3" / "result.json").unlink()
    assert search(FIVE, quick_cell, tmp_path, race=race, groups=groups) == results
    assert {path.name for path in (tmp_path / "groups").iterdir()} == made


FIVE = grid((0.3, 0.6, 0.7, 0.8, 1.0), ("vgg8",), range(6))


def test_a_race_spares_cells_and_not_by_chance(tmp_path: Path) -> None:
    """The far rhos are dropped at the first look, in rounds: the same cells for any order, workers and kills."""
    race = Race(risk=0.05, seeds=6)
    results = search(FIVE, quick_cell, tmp_path / "one", race=race)
    ran = {rho: len(rows) for rho, rows in errors_by_rho(results).items()}
    assert ran == {0.3: 3, 0.6: 3, 0.7: 6, 0.8: 3, 1.0: 6}
    assert search(FIVE, slow_cell, tmp_path / "two", race=race, engine=LocalEngine(2)) == results
    assert files(tmp_path / "two") == files(tmp_path / "one")
    (tmp_path / "one" / "cells" / "rho0.60-vgg8-seed1" / "result.json").unlink()
    assert search(FIVE, quick_cell, tmp_path / "one", race=race) == results
    assert files(tmp_path / "two") == files(tmp_path / "one")
    whole = search(FIVE, quick_cell, tmp_path / "whole")
    assert len(whole) == len(FIVE)
    assert [one for one in whole if one in results] == results
    assert read_costs(FIVE, tmp_path / "one")["wall_seconds"] > 0


def test_a_race_ends_where_rho_1_is_alone(tmp_path: Path) -> None:
    cells = grid((0.2, 0.3), ("vgg8",), range(6))
    results = search(cells, quick_cell, tmp_path, race=Race(risk=0.05, seeds=6))
    assert {rho: len(rows) for rho, rows in errors_by_rho(results).items()} == {0.2: 3, 0.3: 3, 1.0: 3}


def test_damaged_and_foreign_results_are_named(tmp_path: Path) -> None:
    search(CELLS[:1], quick_cell, tmp_path)
    path = tmp_path / "cells" / CELLS[0].name / "result.json"
    whole = path.read_text()
    copy = tmp_path / "copy.json"
    copy.write_text(whole)
    path.write_text(whole[:20])
    with pytest.raises(UserError, match=r"result\.json is no readable JSON .*; delete it"):
        read_results(CELLS, tmp_path)
    path.write_text(whole.replace('"errors": "0', '"errors": "1'))
    with pytest.raises(UserError, match="its seal does not match"):
        read_results(CELLS, tmp_path)
    reseal(path, {"cell": {"rho": 0.4, "student": "vgg8", "seed": 0}}, copy)
    with pytest.raises(UserError, match="another cell"):
        read_results(CELLS, tmp_path)
    older = {"cell": json.loads(copy.read_text())["cell"], "errors": None}
    reseal(path, older, copy)
    with pytest.raises(UserError, match=r"is damaged .*; delete it"):
        read_results(CELLS, tmp_path)


def test_a_result_of_an_earlier_version_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cells" / CELLS[0].name / "result.json"
    path.parent.mkdir(parents=True)
    cell = {"rho": 0.5, "student": "vgg8", "seed": 0}
    write_sealed_json(path, {"cell": cell, "score": 0.1, "pruned": False, "curve": [], "details": {}})
    with pytest.raises(UserError, match=r"is of an earlier version, .* delete it, and the search runs that cell again"):
        search(CELLS, quick_cell, tmp_path)

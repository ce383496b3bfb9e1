"""`compare`: each cell is the distill that it names, a killed comparison ends with the same bytes, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli
from commands.reporting.comparison_curves import error_curves
from evaluation.comparison import Comparison, Run

pytestmark = pytest.mark.xdist_group("workspace")
ROOT = Path(__file__).resolve().parents[2]
LEFT = ("result.json", "table.csv", "table.tex", "error.svg", "index.html")
SMALL: dict[str, Any] = {
    "methods": ["none", {"name": "blkd", "temperature": 2}],
    "sets": {"real": {}, "real + fakes": {"rho": 0.5}},
    "seeds": [0, 1],
    "networks": {"name": "resnet8", "width": 0.25},
    "steps": 3,
    "batch_size": 16,
    "nfake_per_class": 20,
}


def words(workspace: Any, folder: Path, **given: Any) -> list[str]:
    config = folder / "compare.yaml"
    config.write_text(yaml.safe_dump(SMALL | given, sort_keys=False))
    return ["compare", "--config", str(config), "--workspace", str(workspace.folder), "--out", str(folder / "c")]


@pytest.fixture(scope="module")
def compared(workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    assert cli.main(words(workspace, folder)) == 0
    return folder / "c"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in LEFT}


def test_each_cell_is_a_distill(workspace: Any, compared: Path, tmp_path: Path) -> None:
    result = json.loads((compared / "result.json").read_text())
    assert len(result["runs"]) == 8
    assert len(result["lines"]) == 4
    text = "--method blkd --method.temperature 2 --rho 0.5 --seed 1 --network resnet8 --network.width 0.25 --steps 3"
    out = tmp_path / "alone"
    assert workspace.type("distill", f"{text} --batch-size 16 --nfake-per-class 20 --out {out}", tiny=False) == 0
    alone = json.loads((out / "result.json").read_text())["test"]["value"]
    cell = next(one for one in result["runs"] if (one["training_set"], one["seed"]) == ("real + fakes", 1)
                and one["method"] == "blkd (temperature 2.0)")  # fmt: skip
    assert cell["error"] == alone


def test_a_cell_that_is_lost_is_made_again_to_the_same_bytes(workspace: Any, compared: Path, tmp_path: Path) -> None:
    before = contents(compared)
    lost = next((compared / "cells").rglob("result.json"))
    lost.unlink()
    for name in LEFT:
        (compared / name).unlink()
    assert cli.main(words(workspace, compared.parent)) == 0
    assert contents(compared) == before
    assert lost.is_file()


@pytest.mark.slow
def test_two_workers_end_with_the_same_bytes(workspace: Any, compared: Path, tmp_path: Path) -> None:
    assert cli.main([*words(workspace, tmp_path), "--workers", "2"]) == 0
    assert contents(tmp_path / "c") == contents(compared)


def test_killed_it_ends_with_the_same_bytes(workspace: Any, compared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "cli.py", *words(workspace, tmp_path)]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while killed.poll() is None and not list(tmp_path.glob("c/cells/**/result.json")):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "c" / "result.json").exists()
    assert cli.main(words(workspace, tmp_path)) == 0
    assert contents(tmp_path / "c") == contents(compared)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": "none,none"}, "named twice"),
        ({"methods": "none,blkdd"}, "blkdd"),
        ({"sets": "real,moon"}, "moon is no training set"),
        ({"sets": {"real": {"seed": 3}}}, "seed is the same for all rows"),
        ({"sets": {"real": {"test": False}}}, "test is the same for all rows"),
        ({"seed": 3}, "--seed would do nothing"),
        ({"data": "none"}, "--data none has none"),
        ({"sets": {"mine": {"rho": 7}}}, "--sets mine, none"),
        ({"sets": {"mine": {"rhoo": 0.5}}}, "--rhoo is no option"),
        ({"sets": {"mine": 3}}, "KEY: VALUE"),
        ({"sets": {"a b": {}, "a, b": {}}}, "two --sets differ in signs alone"),
        ({"sets": {"mine": {"rho": "searched"}}}, "add search-rho to --parts"),
        ({"sets": {"mine": {"sample": {"filter": "none"}}}}, "add sample to --parts"),
        ({"sets": {"mine": {"init_from": "baseline"}, "real": {}}}, "the first set has the baseline itself"),
        ({"sets": {"mine": {"teacher": {"network": "resnet8"}}}}, "add train-classifier to --parts"),
        ({"sets": {"mine": {"teacher": "yours"}}}, "teacher 'yours' is no set"),
        ({"methods": "none,fsp", "networks": "mobilenetv2"}, "fsp"),
        ({"lr": 0.1, "learning_rates": [0.1]}, "give one of them"),
        ({"parts": "sample,paint"}, "paint is no part"),
        ({"parts": {"sample": {"nfake_per_class": -1}}}, "--parts sample"),
        ({"parts": "sample", "seeds": [0, 3]}, "one for each seed"),
        ({"seeds": [1, 1]}, "named twice"),
    ],
)
def test_mistakes_cost_nothing(workspace: Any, tmp_path: Path, capsys: Any, given: dict, said: str) -> None:
    assert cli.main(words(workspace, tmp_path, **given)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not (tmp_path / "c").exists()


def test_rates_are_chosen_for_each_row_and_curves_drawn(workspace: Any, tmp_path: Path, capsys: Any) -> None:
    """A rate that diverges is no reason to stop; a set may go on from the baseline's student."""
    sets = {
        "real": {},
        "few": {"nfake_per_class": 5},
        "more": {"nfake_per_class": 20},
        "on": {"init_from": "baseline", "lr": 0.003},
    }
    given = {"methods": "none", "sets": sets, "seeds": [0], "learning_rates": [0.02, 1e30]}
    given |= {"epochs": 0.02}
    assert cli.main(words(workspace, tmp_path, **given)) == 0
    result = json.loads((tmp_path / "c" / "result.json").read_text())
    assert {run["training_set"]: run["rate"] for run in result["runs"]} == {
        "real": 0.02, "few": 0.02, "more": 0.02, "on": 0.003}  # fmt: skip
    assert "from the baseline's student" in result["protocol"]
    assert len(result["runs_by_epochs"]) == len(sets)
    assert "test error after 0.02 epochs" in result["table"]
    assert (tmp_path / "c" / "error_by_nfake_per_class.svg").is_file()
    cell = tmp_path / "c" / "cells" / "on" / "resnet8-width-0.25" / "none" / "seed0" / "training"
    card = json.loads((cell / "card.json").read_text())
    baseline = json.loads(Path(str(cell).replace("/on/", "/real/"), "card.json").read_text())
    assert card["initialised_from"] == baseline["source_digest"]
    trials = list((tmp_path / "c" / "rates").rglob("result.json"))
    assert len(trials) == 2 * (len(sets) - 1)
    assert all(json.loads(path.read_text()).get("test") is None for path in trials)

    trials[0].write_text(json.dumps(json.loads(trials[0].read_text()) | {"val_score": 0.0}))
    (tmp_path / "c" / "result.json").unlink()
    assert cli.main(words(workspace, tmp_path, **given)) == 2
    assert "is not as it was written" in capsys.readouterr().err


def test_a_row_that_diverges_at_every_rate_is_named(workspace: Any, tmp_path: Path, capsys: Any) -> None:
    given = {"methods": "none", "sets": "real", "seeds": [0], "learning_rates": [1e30, 1e31]}
    assert cli.main(words(workspace, tmp_path, **given)) == 2
    assert "none on real: the training diverges at each of --learning-rates" in capsys.readouterr().err


def test_curves_hold_the_rows_of_sets_that_differ_in_one_number_alone() -> None:
    sets = {
        "real": {"train_on": "real"},
        "5": {"train_on": "mixed", "nfake_per_class": 5},
        "50": {"train_on": "mixed", "nfake_per_class": 50},
        "alone": {"train_on": "fakes", "nfake_per_class": 50, "rho": "searched"},
    }
    errors = {"real": 0.4, "5": 0.3, "50": 0.2, "alone": 0.5}
    runs = [Run(name, "net", "none", seed, error + 0.01 * seed) for name, error in errors.items() for seed in (0, 1)]
    curves = error_curves(Comparison.of(runs, "%", 100.0, "training"), sets)
    assert list(curves) == ["nfake_per_class"]
    x, y = curves["nfake_per_class"].series["none"]
    assert (list(x), y) == ([0.0, 5.0, 50.0], pytest.approx([40.5, 30.5, 20.5]))
    assert curves["nfake_per_class"].errors["none"] == pytest.approx([100 * 0.01 / 2**0.5] * 3)
    assert not error_curves(Comparison.of(runs, "%", 100.0, "training"), {"real": sets["real"], "alone": sets["alone"]})


def test_other_options_are_refused_and_nothing_is_lost(workspace: Any, compared: Path, capsys: Any) -> None:
    before = contents(compared)
    assert cli.main([*words(workspace, compared.parent), "--steps", "4"]) == 2
    assert contents(compared) == before


@pytest.mark.slow
def test_each_seed_makes_its_own_parts(workspace: Any, tmp_path: Path) -> None:
    small = {"steps": 2}
    parts = {
        "train-teacher": {"steps": 2, "batch_size": 8},
        "train-classifier": small,
        "fit-filter": {"extractor_steps": 2, "ratio_steps": 2},
        "sample": {"nfake_per_class": 4, "pilot_candidates": 8},
        "search-rho": {"rhos": [0.5, 1.0], "seeds": [0, 1], "nfake_per_class": 2, "networks": "resnet8", **small},
    }
    sets = {
        "real": {"train_on": "real"},
        "mixed": {"rho": "searched", "teacher": {"network": "resnet8", **small}},
        "fakes": {"train_on": "fakes", "rho": "searched", "teacher": "mixed"},
        "unfiltered": {"rho": 1.0, "sample": {"filter": "none", "predictor": "none"}},
    }
    given = {"parts": parts, "sets": sets, "nfake_per_class": 2}
    assert cli.main([*words(workspace, tmp_path, **given), "--workers", "2"]) == 0
    result = json.loads((tmp_path / "c" / "result.json").read_text())
    assert "teacher, filter, predictor" in result["covers"]
    assert "fold 0" in result["protocol"]
    assert "fold 1" in result["protocol"]
    home = tmp_path / "c" / "parts" / "seed1"
    assert (home / "pools" / "unfiltered" / "manifest.json").is_file()
    taught = tmp_path / "c" / "cells" / "fakes" / "resnet8-width-0.25" / "blkd-temperature-2.0" / "seed1" / "training"
    digest = json.loads((home / "teachers" / "mixed" / "card.json").read_text())["source_digest"]
    assert json.loads((taught / "card.json").read_text())["teacher"] == digest

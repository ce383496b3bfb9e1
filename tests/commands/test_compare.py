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
    config.write_text(yaml.safe_dump(SMALL | given))
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


def test_other_options_are_refused_and_nothing_is_lost(workspace: Any, compared: Path, capsys: Any) -> None:
    before = contents(compared)
    assert cli.main([*words(workspace, compared.parent), "--steps", "4"]) == 2
    assert contents(compared) == before


@pytest.mark.slow
def test_each_seed_makes_its_own_parts(workspace: Any, tmp_path: Path) -> None:
    parts = {
        "train-teacher": {"steps": 2, "batch_size": 8},
        "train-classifier": {"steps": 2},
        "fit-filter": {"extractor_steps": 2, "ratio_steps": 2},
        "sample": {"nfake_per_class": 4, "pilot_candidates": 8},
    }
    command = [*words(workspace, tmp_path, parts=parts, nfake_per_class=2, methods="none"), "--workers", "2"]
    assert cli.main(command) == 0
    result = json.loads((tmp_path / "c" / "result.json").read_text())
    assert "teacher, filter, predictor" in result["covers"]
    assert "fold 0" in result["protocol"]
    assert "fold 1" in result["protocol"]

"""search-rho from the command line: what it refuses, its race, its cost, and a search of an earlier version."""

import json
from pathlib import Path

import pytest
import yaml

from commands.search_rho import Options
from commands.support.resolving import resolve
from runtime.safe_files import read_sealed_json, write_sealed_json

pytestmark = pytest.mark.xdist_group("workspace")
QUICK = "--steps 3 --width 0.25 --nfake-per-class 10"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--seed 3", "--seed would do nothing: every rho is trained with each of --seeds; give that."),
        ("--risk 0.1", "--risk is that of a race; add --race, or leave it out."),
        ("--race --risk 0", "--risk '0': it must be above 0."),
        ("--race --risk 0.6", "--risk '0.6': it must be below 0.5."),
        ("--race --seeds 0,1,2", "--race drops nothing with 3 seeds"),
        ("--rhos 0.333", "rho 0.333 has more than two decimals"),
    ],
)
def test_what_can_not_be_is_one_sentence(workspace, capsys, tmp_path, text, told):
    assert workspace.type("search-rho", f"{text} --out {tmp_path / 'o'}") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_search_adds_rho_1_and_says_what_it_cost(workspace, capsys, tmp_path):
    text = f"{QUICK} --rhos 0.5 --seeds 0,1 --out {tmp_path / 'o'}"
    found = workspace.json(capsys, "search-rho", text, tiny=False)
    assert [line["rho"] for line in found["choice"]["lines"]] == [0.5, 1.0]
    assert found["choice"]["images"] == 300
    cost = found["cost"]
    assert cost["spent"]["cells"] == cost["full_grid"]["cells"] == 4
    assert cost["spent"]["steps"] == 12
    assert cost["spent"]["cpu_seconds"] > 0
    assert yaml.safe_load((tmp_path / "o" / "choice.yaml").read_text())["rho"] == found["rho"]
    assert read_sealed_json(tmp_path / "o" / "choice.json")["explained"][0] in found["table"]
    again = workspace.json(capsys, "search-rho", text, tiny=False)
    assert again == found
    assert workspace.type("search-rho", text, tiny=False) == 0
    assert "cost: 4 trainings, 12 steps, " in capsys.readouterr().out


def test_a_race_is_continued_to_the_same_files(workspace, capsys, tmp_path):
    text = f"{QUICK} --rhos 0.5,1 --seeds 0,1,2,3 --prune --out {tmp_path / 'o'}"  # --race by its earlier name
    found = workspace.json(capsys, "search-rho", text, tiny=False)
    files = {path: path.read_bytes() for path in (tmp_path / "o").glob("choice.*")}
    assert len(files) == 2
    assert len(list((tmp_path / "o" / "groups").iterdir())) == 2  # so small students are trained together
    assert found["choice"]["risk"] == 0.05
    for path in files:
        path.unlink()
    (tmp_path / "o" / "cells" / "rho0.50-resnet8-seed1" / "result.json").unlink()
    assert workspace.json(capsys, "search-rho", text, tiny=False)["choice"] == found["choice"]
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize(("steps", "seeds"), [(3, 8), (30_000, 3)])
def test_seeds_follow_from_the_size_of_a_training(workspace, capsys, steps, seeds):
    text = f"--steps {steps} --dry-run"
    needs = workspace.json(capsys, "search-rho", text, tiny=False)["needs"]
    assert needs["seeds"] == list(range(seeds))
    assert needs["trainings"] == 6 * seeds
    assert f"seeds 0 to {seeds - 1}: a training is" in needs["why"]


def test_a_finished_search_of_an_earlier_version_is_refused_with_the_command(workspace, capsys, tmp_path):
    text = f"{QUICK} --rhos 0.5 --seeds 0 --out {tmp_path / 'o'}"
    assert workspace.type("search-rho", text, tiny=False) == 0
    choice = tmp_path / "o" / "choice.json"
    older = {name: value for name, value in read_sealed_json(choice).items() if name != "format"}
    choice.unlink()
    write_sealed_json(choice, older)
    capsys.readouterr()
    assert workspace.type("search-rho", text, tiny=False) == 2
    assert "is a search of an earlier version" in (said := capsys.readouterr().err)
    assert "give search-rho another --out" in said


def test_the_options_of_an_earlier_version_are_understood() -> None:
    assert resolve(Options, None, {"prune": True}).race is True
    assert json.loads(resolve(Options, None, {"prune": False}).model_dump_json())["race"] is False


def test_the_script_of_the_grid_names_commands_that_are_there() -> None:
    """It is run whole by hand; here its lines are parsed as cli.py does."""
    from commands.support.table import COMMANDS

    script = Path(__file__).resolve().parents[2] / "scripts" / "rho_grid_search.sh"
    called = [
        line.split("cli.py ")[1].split()[0] for line in script.read_text().splitlines() if '"$python" cli' in line
    ]
    assert called == ["sample", "search-rho", "distill"]
    assert set(called) <= set(COMMANDS)

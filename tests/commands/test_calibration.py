"""inspect and report on real digits: warnings, plots, the filters before and after, copies, every form of the ratio."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from commands.reporting.calibration import calibration_of
from evaluation.report.calibration_parts import filter_parts
from filters import load_filter
from image_data.percentiles import values_from
from image_data.real import load_real
from tests.conftest import Workspace

pytestmark = pytest.mark.xdist_group("workspace")


@pytest.fixture(scope="module")
def measured(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the small workspace with distances and an evaluation."""
    made = Workspace(tmp_path_factory.mktemp("measured") / "w")
    shutil.copytree(workspace.folder, made.folder, symlinks=True)
    assert made.type("score", "--nearest", tiny=False) == 0
    assert made.type("evaluate", "--images-per-class 20 --judge-steps 30", tiny=False) == 0
    return made


def test_inspect_shows_everything_in_few_lines(measured, capsys):
    found = measured.json(capsys, "inspect", tiny=False)
    assert measured.type("inspect", tiny=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    labels = [line for line in lines if re.match(r"(! )?\d ", line)]
    assert [line.removeprefix("! ")[0] for line in labels] == [str(digit) for digit in range(10)]
    named = {str(label) for one in found["warnings"] for label in one["labels"]}
    assert {line[2] for line in labels if line.startswith("! ")} == named
    assert sum(line.startswith("real, held out") for line in lines) == 1
    assert [line for line in lines if line.startswith("warning: ")] == [
        f"warning: {w['text']}" for w in found["warnings"]
    ]
    (head,) = [index for index, line in enumerate(lines) if "FD-judge" in line]
    assert [re.split("  +", line)[0] for line in lines[head + 2 : head + 5]] == [
        "as drawn",
        *list(found["quality"]["rows"])[1:],
    ]
    assert any(line.startswith("memorised") for line in lines)
    card = json.loads((measured.folder / "filter" / "latest" / "card.json").read_text())
    assert found["filter"]["mean_ratio"] == card["mean_ratio"]
    for name in ("train_reals", "held_out_reals", "held_out_fakes"):
        values = values_from(found["filter"]["ratio_percentiles"][name])
        assert values.mean() == pytest.approx(card["mean_ratio"][name], rel=0.1)
    assert [one["filter"] for one in found["quality"]["filters"]] == ["density ratio", "error filter at rho 0.9"]
    assert found["variety"] is None  # the distances say it better
    assert found["missing"] == []


def test_inspect_says_which_command_makes_what_is_missing(workspace, capsys):
    found = workspace.json(capsys, "inspect", tiny=False)
    assert len(found["variety"]["by_label"]) == 10
    assert found["quality"] is None
    assert any("score" in text and "--nearest" in text for text in found["missing"])
    assert any("evaluate" in text for text in found["missing"])
    assert workspace.type("inspect", tiny=False) == 0
    assert "--nearest" in capsys.readouterr().out


def test_plots_are_pictures_and_a_file_is_no_folder(measured, capsys, tmp_path):
    found = measured.json(capsys, "inspect", f"--plots {tmp_path / 'p'}", tiny=False)
    names = {Path(path).stem for path in found["plots"]}
    assert names == {"density_ratio", "acceptance", "clipped_mass", "errors", "training_distance"}
    for path in found["plots"]:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert (pixels == 255).mean() > 0.5
        assert (pixels < 200).mean() > 0.005
    (tmp_path / "file").write_text("mine")
    assert measured.type("inspect", f"--plots {tmp_path / 'file'}", tiny=False) == 2
    assert "--plots" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_card_of_an_older_version_still_reads(measured, capsys, tmp_path):
    old = tmp_path / "w"
    shutil.copytree(measured.folder, old, symlinks=True)
    path = (old / "filter" / "latest").resolve() / "card.json"
    card = json.loads(path.read_text())
    del card["ratio_percentiles"], card["seal"]
    path.write_text(json.dumps(card))
    found = Workspace(old).json(capsys, "inspect", tiny=False)
    assert found["filter"]["mean_ratio"] == card["mean_ratio"]
    assert any("fit-filter" in text for text in found["missing"])
    known = calibration_of(Path(found["fakes"]), [old])
    ratio = load_filter(known.filter, torch.device("cpu"))
    ratios = filter_parts(known, load_real("digits"), ratio, 0.9)["density_ratio"]
    assert set(ratios.series) == {"fakes, all candidates", "real, training role", "real, validation (unseen)"}


def test_another_filter_is_refused_and_an_evaluation_of_other_fakes_is_not_taken(measured, capsys, tmp_path):
    other = tmp_path / "filter"
    assert measured.type("fit-filter", f"--seed 5 --out {other}") == 0
    assert measured.type("inspect", f"--filter {other}", tiny=False) == 2
    assert "not the filter of the fakes" in capsys.readouterr().err
    fakes = tmp_path / "fakes"
    words = f"--filter {other} --out {fakes} --nfake-per-class 20 --block-size 64 --pilot-candidates 64"
    assert measured.type("sample", words, tiny=False) == 0
    found = measured.json(capsys, "inspect", f"{fakes} --filter {other}", tiny=False)
    assert found["filter"]["folder"] == str(other)
    assert found["quality"] is None


def test_the_report_begins_with_what_the_filters_are_worth(measured, capsys, tmp_path):
    found = measured.json(capsys, "inspect", tiny=False)
    shown = measured.json(capsys, "report", f"--out {tmp_path / 'r.html'}", tiny=False)
    page = (tmp_path / "r.html").read_text()
    verdict = re.search(r'<p class="verdict verdict-(\w+)">(.*?)</p>', page)
    assert verdict
    helps = all(one["verdict"] == "helps" for one in found["quality"]["filters"])
    assert (verdict.group(1) == "good") == helps
    assert "density ratio" in verdict.group(2).lower()
    assert len(shown["warnings"]) == len(found["warnings"])
    for part in ("Before and after each filter", "what theory says", "Label by label", "Memorisation and near-dup"):
        assert part in page, part
    assert "Nearest to training images" in page  # the fake and the real image side by side
    assert "real, held out for stopping" in page


@pytest.mark.parametrize("form", ["nearest-neighbours", pytest.param("per-class", marks=pytest.mark.slow)])
def test_every_form_of_the_ratio_records_its_distribution(workspace, capsys, tmp_path, form):
    chosen, fakes = tmp_path / "filter", tmp_path / "fakes"
    assert workspace.type("fit-filter", f"--ratio {form} --ratio-steps 10 --out {chosen}") == 0
    words = f"--filter {chosen} --predictor none --out {fakes} --nfake-per-class 20 --block-size 64"
    assert workspace.type("sample", f"{words} --pilot-candidates 64", tiny=False) == 0
    said = capsys.readouterr().out
    assert "theory says" in said
    found = workspace.json(capsys, "inspect", f"{fakes} --filter {chosen} --plots {tmp_path / 'p'}", tiny=False)
    assert len(found["filter"]["ratio_percentiles"]["held_out_reals"]) == 101
    assert {Path(path).stem for path in found["plots"]} == {"density_ratio", "acceptance", "clipped_mass"}
    assert any("--predictor" in text for text in found["missing"])


def test_keep_that_starves_a_label_is_a_warning(workspace, capsys):
    folder = (workspace.folder / "fakes" / "latest").resolve()
    words = ["inspect", str(folder), "--workspace", str(workspace.folder), "--json"]
    assert cli.main([*words, "--keep", "error global rank < 0.05 or label == 3"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert not [one for one in named["warnings"] if one["kind"] == "kept"]  # a label in --keep is meant
    assert named["kept"]["images"] >= 80


def test_the_error_filters_row_is_only_measured_where_there_are_errors(workspace, capsys, tmp_path):
    fakes = tmp_path / "fakes"
    assert workspace.type("sample", f"--filter none --predictor none --out {fakes} --rho 1 --nfake-per-class 20") == 0
    words = f"--fakes {fakes} --images-per-class 10 --judge-steps 30 --out {tmp_path / 'e'}"
    rows = workspace.json(capsys, "evaluate", words, tiny=False)["rows"]
    assert list(rows) == ["teacher", "accepted"]

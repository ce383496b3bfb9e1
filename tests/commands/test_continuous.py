"""Continuous labels through the whole path: rotated digits, labels in degrees, label values never seen in training."""

import pytest

from tests.conftest import Workspace

pytestmark = pytest.mark.xdist_group("continuous")
DATA = "--data rotated-digits --real-per-class 10"


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    made = Workspace(tmp_path_factory.mktemp("rotated"))
    for command in ("train-teacher", "train-classifier", "fit-filter"):
        assert made.type(command, DATA) == 0, command
    return made


def test_sample_over_a_grid_of_labels(rotated, capsys):
    words = "--nfake-per-label 8 --rho 0.5 --labels=-60:60:9 --block-size 32 --pilot-candidates 32"
    found = rotated.json(capsys, "sample", words, tiny=False)
    assert found["images"] == 9 * 16
    assert [entry["label"] for entry in found["by_label"]] == [-60, -45, -30, -15, 0, 15, 30, 45, 60]
    assert rotated.type("verify", tiny=False) == 0
    result = rotated.json(capsys, "distill", f"{DATA} --rho 0.5 --nfake 72")
    assert result["test"]["measure"] == "mae"
    assert result["test"]["unit"] == "degrees"
    assert result["protocol"]["images"] == 500 + 72
    student = rotated.json(capsys, "train-student", DATA)
    assert student["cost"]["student"]["parameters"] > 0


def test_labels_outside_the_range_and_class_options_are_refused(rotated, capsys):
    for words, name in (
        ("--nfake-per-label 2 --labels=-90:90:3", "--labels"),
        ("--nfake-per-label 2 --labels=a:b", "--labels"),
        ("--nfake-per-class 2", "--nfake-per-label"),
    ):
        capsys.readouterr()
        assert rotated.type("sample", words, tiny=False) == 2
        assert name in capsys.readouterr().err

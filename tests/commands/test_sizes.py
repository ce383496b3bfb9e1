"""Images of a size between, such as MNIST's 28 pixels, from sampling to an exported student and a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from image_data.fake import open_fakes
from student_trainer import load_student

pytestmark = pytest.mark.xdist_group("workspace")
PLAIN = "--filter none --predictor none --workers 1"


def test_fakes_of_28_pixels_teach_students(workspace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fakes, student = tmp_path / "fakes", tmp_path / "student"
    assert workspace.type("sample", f"--image-size 28 --nfake-per-class 4 --rho 1 {PLAIN} --out {fakes}") == 0
    assert "no student generator" not in capsys.readouterr().err
    games = "--games-from 0 --discriminator-pair-weight 1 --feature-weight 1 --diffaugment translation --steps 3"
    assert workspace.type("train-student", f"--fakes {fakes} {games} --out {student}") == 0
    assert load_student(student, torch.device("cpu")).network.canvas_px == 32  # its middle is the image
    card = json.loads((student / "card.json").read_text())
    assert card["arguments"]["resolution_px"] == card["resolution_px"] == 28
    assert workspace.type("export", f"--student {student} --out {tmp_path / 'g.pt2'}", tiny=False) == 0
    program = torch.export.load(tmp_path / "g.pt2").module()
    made = program(torch.zeros(3, card["latent"]["dimension"]), torch.tensor([0, 1, 9]))
    assert made.shape == (3, *open_fakes(fakes).image_shape) == (3, 1, 28, 28)
    classifier = f"--train-on fakes --no-test --fakes {fakes} --steps 2 --out {tmp_path / 'c'}"
    assert workspace.type("distill", classifier) == 0


def test_a_size_that_no_student_has_is_said_when_it_is_sampled(
    workspace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = f"--image-size 144 --nfake-per-class 1 --rho 1 {PLAIN} --out {tmp_path / 'fakes'}"
    assert workspace.type("sample", sizes) == 0
    assert "sample the fakes with --image-size 128" in capsys.readouterr().err
    assert workspace.type("train-student", f"--fakes {tmp_path / 'fakes'} --out {tmp_path / 's'}") == 2
    assert "no student generator makes images of 144 x 144" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()

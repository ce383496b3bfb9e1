"""Distillation from fakes where there is no real image at all: nothing real is read, and no number pretends it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import cli
from image_data.fake import open_fakes
from image_data.fake.holdout import SHARE, hold_out
from image_data.fake.selection import Selection

Typed = Callable[..., tuple[int, str, str]]
TRAIN = "--steps 3 --network resnet8 --width 0.25"


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """(exit code, stdout, stderr) of `cli.py TEXT`; the working directory holds nothing but what the test makes."""
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(text.split())
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def foreign_fakes(typed: Typed, labels: np.ndarray, more: str = "--nfake-per-class 40") -> None:
    """fakes: 3 x 32 x 32, of a teacher that nobody here has trained."""
    rng = np.random.default_rng(0)
    shift = 150.0 * (labels - labels.min()) / (labels.max() - labels.min())
    images = np.clip(rng.normal(50, 10, (len(labels), 3, 32, 32)) + shift[:, None, None, None], 0, 255)
    with h5py.File("ready.h5", "w") as file:
        file["images"], file["labels"] = images.astype(np.uint8), labels
    assert typed("import-teacher --arch images --checkpoint ready.h5 --out teacher")[0] == 0
    sampled = typed(f"sample --teacher teacher --filter none --predictor none --workers 1 --out fakes {more}")
    assert sampled[0] == 0, sampled


def refuse_real(*_: Any, **__: Any) -> None:
    raise AssertionError("real images were read")


def test_no_real_image_is_read(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign_fakes(typed, np.repeat(np.arange(3), 50))
    monkeypatch.setattr("image_data.real.load_real", refuse_real)
    code, out, err = typed(f"distill --train-on fakes --no-test --fakes fakes {TRAIN}")
    assert code == 0, err
    assert "held-out fakes" in out
    assert out.count("\n") == 1
    (folder,) = (path for path in (tmp_path / "runs/digits/classifier").glob("*") if not path.is_symlink())
    record = json.loads((folder / "command.json").read_text())["content"]
    assert set(record["parents"]) == {"fakes"}
    assert record["options"]["data"] == "none"
    result = json.loads((folder / "result.json").read_text())
    assert result["test"] is None
    assert result["validated_on"] == "held-out fakes"
    assert result["held_out_fakes"]["images"] + result["protocol"]["images"] == 120
    assert result["protocol"]["data"] == "none"
    assert not [name for name in result if name.startswith("val_")]
    assert json.loads((folder / "card.json").read_text())["label_space"]["names"] == ["0", "1", "2"]
    same = typed(f"distill --train-on fakes --data none --no-test --fakes fakes {TRAIN} --out other")
    assert same[0] == 0, same
    weights = [(place / "weights.safetensors").read_bytes() for place in (folder, tmp_path / "other")]
    assert weights[0] == weights[1]
    soft = typed(f"distill --train-on fakes --data none --fakes fakes --predictor other {TRAIN} --out soft")
    assert soft[0] == 0, soft
    assert json.loads((tmp_path / "soft/result.json").read_text())["protocol"]["method"] == "blkd"


def test_values_without_real_images(typed: Typed, tmp_path: Path) -> None:
    foreign_fakes(typed, np.repeat(np.linspace(0.5, 88.5, 12), 12), "--nfake-per-label 10")
    code, _, err = typed(f"distill --train-on fakes --no-test --fakes fakes {TRAIN} --out out")
    assert code == 0, err
    assert json.loads((tmp_path / "out/result.json").read_text())["held_out_fakes"]["metric"] == "mae"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("distill --data none --fakes fakes", "--train-on mixed needs real images"),
        ("distill --data none --train-on fakes --test --fakes fakes", "give --no-test"),
        ("distill --data none --train-on fakes --fold 1 --fakes fakes", "--fold is for real images"),
        ("distill --fakes fakes", "--data is not given"),
        ("search-rho --fakes fakes", "--data is not given"),
        ("search-rho --data none --fakes fakes", "real validation images"),
        ("distill --train-on fakes --no-test --fakes ready.h5", "ready.h5 is a file"),
        ("distill --train-on fakes --no-test --fakes fakes --selection best-validation --nfake 3", "needs validation"),
    ],
)
def test_what_needs_real_images_is_refused(typed: Typed, tmp_path: Path, text: str, part: str) -> None:
    foreign_fakes(typed, np.repeat(np.arange(3), 20), "--nfake-per-class 10")
    code, _, err = typed(f"{text} --steps 3 --out out")
    assert code == 2
    assert part in err
    assert err.count("error:") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[a-z]*"))


def test_the_held_out_share_follows_the_pixels(typed: Typed, tmp_path: Path) -> None:
    foreign_fakes(typed, np.repeat(np.arange(3), 400), "--nfake-per-class 400")
    fakes = open_fakes(tmp_path / "fakes")
    whole, half = (Selection(np.arange(0, 1200, step), fakes.labels[::step], {}, fakes.digest) for step in (1, 2))
    kept, held = hold_out(fakes, whole)
    assert held is not None
    assert kept.rows is not None
    assert held.rows is not None
    assert abs(len(held) - SHARE * 1200) < 4 * np.sqrt(SHARE * 1200)
    assert len(held) + len(kept) == 1200
    assert not set(held.rows) & set(kept.rows)
    _, fewer = hold_out(fakes, half)
    assert fewer is not None
    assert fewer.rows is not None
    assert set(fewer.rows) == {row for row in held.rows if row % 2 == 0}


@pytest.mark.xdist_group("workspace")
def test_distill_prints_one_line(workspace, capsys: pytest.CaptureFixture) -> None:
    assert workspace.type("distill", "--train-on real --method none --steps 3") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("test error ")
    assert "497 images" in line
    assert " ± " in line


def test_nothing_is_trained_to_score_fakes_from_elsewhere(typed: Typed, tmp_path: Path) -> None:
    foreign_fakes(typed, np.repeat(np.arange(3), 50))
    code, _, err = typed("score fakes --workspace empty")
    assert code == 2
    assert "no predictor in empty" in err
    assert not (tmp_path / "empty").exists()

"""Teachers without labels: one class goes through filter, sampling, evaluation and students; what needs two says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from evaluation.judge import JudgeSettings, load_judge, train_judge
from evaluation.quality import image_quality
from filters import fit_filter, load_filter
from filters.settings import FilterSettings
from image_data.fake import open_fakes
from image_data.labels import ClassLabels
from image_data.quarter_turns import TURNS, turn
from image_data.sources import ArraySource
from layers.discriminators import DISCRIMINATORS
from teacher_sampler import TEACHERS, load_teacher
from teacher_sampler.training import train_teacher
from teacher_sampler.training.settings import TeacherSettings

CPU = torch.device("cpu")
ALL = ClassLabels(("all",))
STUDENT = "--steps 2 --batch-size 8 --base-width 4 --discriminator-width 4 --standing-batches 2"


@pytest.fixture(scope="module")
def real() -> ArraySource:
    """Upright wedges: white below the diagonal."""
    rng = np.random.default_rng(0)
    wedge = np.tril(np.full((16, 16), 200.0))
    pixels = np.clip(rng.normal(wedge, 20, (120, 1, 16, 16)), 0, 255).astype(np.uint8)
    return ArraySource(pixels, np.zeros(120, dtype=np.int64))


@pytest.fixture(scope="module")
def teacher(real: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "teacher"
    small = TeacherSettings(
        TEACHERS.choose("biggan", {"width": 4}), DISCRIMINATORS.choose("projection", {"width": 4}),
        steps=2, batch_size=8, standing_batches=2,
    )  # fmt: skip
    train_teacher(real, ALL, small, folder, CPU, (), {"name": "wedges"})
    return folder


def test_turns_can_be_undone() -> None:
    images = torch.arange(40 * 2 * 9).reshape(40, 2, 3, 3)
    turned, turns = turn(images, torch.Generator().manual_seed(0))
    assert set(turns.tolist()) == set(range(TURNS))
    for image, found, quarters in zip(images, turned, turns.tolist(), strict=True):
        assert torch.equal(torch.rot90(found, -quarters, (1, 2)), image)


@pytest.mark.parametrize("ratio", ["conditional", "per-class", "nearest-neighbours"])
def test_a_filter_of_one_class(ratio: str, real: ArraySource, teacher: Path, tmp_path: Path) -> None:
    settings = FilterSettings(
        extractor_steps=60, ratio_steps=20, fakes_at_least=200, extractor_width=4, ratio=ratio  # type: ignore[arg-type]
    )  # fmt: skip
    fit_filter(real, ALL, load_teacher(teacher, CPU), settings, tmp_path / "filter", CPU)
    card = json.loads((tmp_path / "filter/card.json").read_text())
    assert card["extractor_learns"] == "quarter turns"
    assert card["extractor"]["outputs"] == TURNS
    assert card["extractor_score"]["held_out"] > 0.9  # upright wedges are told from turned ones
    found = load_filter(tmp_path / "filter", CPU)(torch.from_numpy(real.pixels[:4]), real.labels[:4])
    assert torch.isfinite(found).all()


def test_commands_with_one_class(
    real: ArraySource, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fakes = tmp_path / "fakes"
    sample = f"sample --teacher {teacher} --filter none --nfake-per-class 40 --out {fakes} --workers 1"
    assert cli.main(sample.split()) == 0
    text = capsys.readouterr().out
    assert "no teacher errors" not in text
    opened = open_fakes(fakes)
    assert opened.score_sets() == []
    assert len(opened) == 40
    assert cli.main(f"inspect {fakes} --plots {tmp_path / 'plots'}".split()) == 0
    assert cli.main(f"export-h5 --fakes {fakes} --out {tmp_path / 'f.h5'}".split()) == 0
    assert cli.main(f"train-student --fakes {fakes} {STUDENT} --out {tmp_path / 's'}".split()) == 0
    capsys.readouterr()
    assert cli.main(f"distill --train-on fakes --no-test --fakes {fakes} --out {tmp_path / 'c'}".split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "has one only (all)" in line


def test_quality_of_one_class(real: ArraySource, tmp_path: Path) -> None:
    train_judge(real, ALL, tmp_path / "judge", CPU, 0, settings=JudgeSettings(steps=3, batch_size=16))
    judge = load_judge(tmp_path / "judge", CPU)
    other = ArraySource(real.pixels[:, :, ::-1].copy(), real.labels)
    found = image_quality(other, real, ALL, judge, judge=judge)
    assert found["label_agreement"] is None
    assert found["score"] is not None
    assert found["score"] > 0.0
    assert found["kernel_distance"] is not None
    assert set(found["per_class"]) == {"all"}
    assert 0.0 <= found["recall"] <= 1.0

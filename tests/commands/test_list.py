"""What `list` offers works: every entry of every registry is used once, at a tiny size."""

from __future__ import annotations

import json
from typing import Any

import pytest

import cli
from classifiers import DISTILLERS, STUDENTS
from student_trainer import GENERATORS
from teacher_sampler import TEACHERS
from teacher_sampler.training.settings import TRAINABLE
from white_box import WHITE_BOX_LOSSES

pytestmark = pytest.mark.xdist_group("workspace")


def test_the_list_is_whole_and_says_the_use(capsys: Any) -> None:
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for registry in (STUDENTS, DISTILLERS, GENERATORS, TEACHERS, WHITE_BOX_LOSSES):
        assert list(found[registry.kind]) == list(registry)
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "teacher architecture: biggan, biggan-deep  (train-teacher --architecture)" in shown
    assert "ccgan, stylegan2-ada  (loaded" in shown


@pytest.mark.parametrize("name", list(TEACHERS))
def test_a_teacher_trains_or_is_refused_with_those_that_do(name: str, capsys: Any, tmp_path: Any) -> None:
    sizes = "--steps 1 --batch-size 4 --width 4 --discriminator-width 4 --standing-batches 1 --real-per-class 2"
    words = ["train-teacher", "--architecture", name, *sizes.split(), "--out", str(tmp_path / "t")]
    assert cli.main(words) == (0 if name in TRAINABLE else 2)
    told = capsys.readouterr().err
    if name not in TRAINABLE:
        assert told.strip().splitlines() == [
            f"error: --architecture {name} cannot be trained here, only loaded (import-teacher); those that can are "
            f"biggan and biggan-deep."
        ]
        assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", list(STUDENTS))
def test_a_classifier_trains(name: str, tmp_path: Any) -> None:
    words = ["train-classifier", "--network", name, "--steps", "1", "--batch-size", "4", "--real-per-class", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize("words", [
    *(f"train-student --network {name}" for name in GENERATORS),
    *(f"train-student --white-box --white-box-losses {name}=0.1" for name in WHITE_BOX_LOSSES),
    *(f"distill --method {name} --width 0.5" for name in DISTILLERS),
])  # fmt: skip
def test_the_other_entries_train(words: str, workspace: Any, tmp_path: Any) -> None:
    command, _, rest = words.partition(" ")
    small = "--base-width 4 --discriminator-width 4 --standing-batches 1 --batch-size 4"
    small = small if command == "train-student" else "--rho 1 --no-test"
    assert workspace.type(command, f"{rest} {small} --steps 1 --out {tmp_path / 'o'}", tiny=False) == 0

"""What `list` offers works: every entry of every registry is used once, at a tiny size."""

from __future__ import annotations

import json
from typing import Any

import pytest

import cli
from classifiers import STUDENTS
from layers.discriminators import DISCRIMINATORS
from layers.trunks import TRUNKS
from runtime.settings import settings_of
from student_trainer import GENERATORS
from teacher_sampler import TEACHERS
from training.methods import METHODS

pytestmark = pytest.mark.xdist_group("workspace")
ON_FEATURES = [name for name in METHODS if METHODS.get(name).requires == {"features"}]
EQUAL_WIDTHS = ("fsp", "kdsvd")


def test_the_list_is_whole_and_says_the_use(capsys: Any) -> None:
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for registry in (STUDENTS, METHODS, GENERATORS, DISCRIMINATORS, TEACHERS):
        assert list(found[registry.kind]) == list(registry)
        for name, entry in found[registry.kind].items():
            settings = settings_of(registry.settings(name))
            assert [one["name"] for one in entry["settings"]] == [one.name for one in settings]
    width = found["student generator"]["tinygan"]["settings"][0]
    assert width.pop("help").startswith("Channels of the last block")
    assert width == {"name": "base_width", "default": 8, "unit": "channels"}
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for use, loaded in (("train-teacher --generator", False), ("loaded from a checkpoint", True)):
        names = ", ".join(name for name in TEACHERS if bool(TEACHERS.only(name)) is loaded)
        assert f"teacher architecture: {names}  ({use}" in shown


def test_one_entry_or_one_kind_alone(capsys: Any) -> None:
    assert cli.main(["list", "tinygan"]) == 0
    one = capsys.readouterr().out
    assert "base-width" in one
    assert "biggan" not in one
    assert cli.main(["list", "student generator"]) == 0
    assert set(one.splitlines()[1:]) <= set(capsys.readouterr().out.splitlines())
    assert cli.main(["list", "nothing"]) == 2
    assert "'nothing' is no entry" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(TEACHERS))
def test_a_teacher_trains_or_is_refused_with_those_that_do(name: str, capsys: Any, tmp_path: Any) -> None:
    sizes = "--steps 1 --batch-size 4 --discriminator-width 4 --standing-batches 1 --real-per-class 2"
    words = ["train-teacher", "--generator", name, *sizes.split(), "--out", str(tmp_path / "t")]
    loaded = TEACHERS.only(name)
    assert cli.main(words) == (2 if loaded else 0)
    told = capsys.readouterr().err
    if loaded:
        assert told == (
            f"error: --generator: teacher architecture {name} is only loaded from a checkpoint (import-teacher), not "
            f"trained here; give {' or '.join(known for known in TEACHERS if not TEACHERS.only(known))}.\n"
        )
        assert not (tmp_path / "t").exists()


# One network of each family: those of a family differ in numbers alone.
ONE_EACH = {one.family: name for name, one in TRUNKS.items()} | {TRUNKS["vgg8"].family: "vgg8"}


@pytest.mark.parametrize("name", sorted({"mobilenetv3", *ONE_EACH.values()}))
def test_a_classifier_trains(name: str, tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    assert name in STUDENTS
    words = ["train-classifier", "--network", name, "--steps", "1", "--batch-size", "4", "--real-per-class", "2"]
    fits = name not in TRUNKS or TRUNKS[name].smallest_px <= 16
    assert cli.main([*words, "--out", str(tmp_path / "c")]) == (0 if fits else 2)
    assert fits or f"too small for {name}; use 32 px or more" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    *(f"train-student --generator {name}" for name in GENERATORS),
    *(f"train-student --white-box --white-box-losses {name}=0.1" for name in ON_FEATURES if name not in EQUAL_WIDTHS),
    *(f"distill --method {name} --width 0.5" for name in METHODS),
    *(f"distill --method {name} --beside blkd --width 0.5" for name in ("ab", "feature-l2", "ft")),
])  # fmt: skip
def test_the_other_entries_train(words: str, workspace: Any, tmp_path: Any) -> None:
    command, _, rest = words.partition(" ")
    small = "--discriminator-width 4 --standing-batches 1 --batch-size 4"
    small = small if command == "train-student" else "--rho 1 --no-test"
    assert workspace.type(command, f"{rest} {small} --steps 1 --out {tmp_path / 'o'}", tiny=False) == 0


@pytest.mark.parametrize("name", EQUAL_WIDTHS)
def test_unequal_widths_are_refused_before_training(name: str, workspace: Any, tmp_path: Any, capsys: Any) -> None:
    words = f"--white-box --white-box-losses {name}=0.1 --base-width 5 --steps 1 --out {tmp_path / 'o'}"
    assert workspace.type("train-student", words, tiny=False) == 2
    assert f"method {name} needs equal widths: the student's" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()

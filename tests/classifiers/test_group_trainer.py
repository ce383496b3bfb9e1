"""Several students at once learn what each learns alone, continue after a kill, and are chosen by a measured rule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from classifiers import STUDENTS, ClassifierSettings, load_classifier, train_classifier
from classifiers.group_trainer import LARGEST_BATCH, STUDENTS_AT_ONCE, Member, at_once, train_group
from classifiers.predictor import FOLDER
from image_data.real import load_real
from training.methods import METHODS

CPU = torch.device("cpu")
STEPS = 4
EPS = torch.finfo(torch.float64).eps
SUMMED = 32 * 16 * 16  # terms of the longest sum: a batch norm's, over batch and places
GROWTH = 4.0  # how much a step at this rate may enlarge a difference of the weights, at most


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch):
    """Both trainers as they are, but all in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def settings_of(method: str, seed: int, network: str = "vgg8") -> ClassifierSettings:
    return ClassifierSettings(
        network=STUDENTS.choose(network, {"width": 0.0625}), method=METHODS.choose(method),
        steps=STEPS, batch_size=32, seed=seed, validate_every_steps=2, log_every_steps=2,
    )  # fmt: skip


def members(tmp_path: Path, method: str, data: object, curves: dict[int, list], network: str = "vgg8") -> list[Member]:
    """Three students with other images, orders and weights each."""
    made = []
    for seed in range(3):
        kept = data.train.subset(np.arange(60 + 25 * seed))
        out = tmp_path / "together" / str(seed)
        curves[seed] = []
        made.append(Member(kept, settings_of(method, seed, network), out, partial(_note, curves[seed])))
    return made


def _note(curve: list, step: int, score: float) -> None:
    curve.append((step, score))


@pytest.mark.parametrize(("method", "network"), [("none", "vgg8"), ("blkd", "resnet8")])
def test_a_group_learns_what_each_learns_alone(tmp_path: Path, double: None, method: str, network: str) -> None:
    data = load_real("digits", real_per_class=20)
    teacher = None
    if method == "blkd":
        train_classifier(data.train, data.val, data.label_space, settings_of("none", 9), tmp_path / "t", CPU, ())
        teacher = load_classifier(tmp_path / "t", CPU)
    curves: dict[int, list] = {}
    group = members(tmp_path, method, data, curves, network)
    rest = data.val, data.label_space
    train_group(group, *rest, tmp_path / "group", CPU, data.allowed_augmentations, teacher)
    bound = SUMMED * EPS * STEPS * GROWTH**STEPS
    assert bound < 1e-7  # far from any float32 difference
    for member, curve in zip(group, curves.values(), strict=True):
        alone = tmp_path / "alone" / member.out.name
        heard: list = []
        train_classifier(
            member.train, *rest, member.settings, alone, CPU, data.allowed_augmentations, teacher,
            on_validation=lambda step, score, heard=heard: heard.append((step, score)),
        )  # fmt: skip
        assert curve == heard
        cards = [FOLDER.read_card(folder) for folder in (member.out, alone)]
        ours, others = (card["result"].pop("val_cross_entropy") for card in cards)
        assert ours == pytest.approx(others, rel=bound)
        assert {**cards[0], "source_digest": ""} == {**cards[1], "source_digest": ""}
        states = [load_classifier(folder, CPU).network.state_dict() for folder in (member.out, alone)]
        for name, wanted in states[1].items():
            assert float((states[0][name] - wanted).abs().max()) <= bound * max(1.0, float(wanted.abs().max())), name


def test_a_killed_group_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the second student's folder is written, and at a step in the middle."""
    data = load_real("digits", real_per_class=20)
    rest = data.val, data.label_space, tmp_path / "group", CPU, ()

    class Killed(Exception):
        pass

    wanted_curves: dict[int, list] = {}
    whole = members(tmp_path / "whole", "none", data, wanted_curves)
    train_group(whole, data.val, data.label_space, tmp_path / "other", CPU, ())

    curves: dict[int, list] = {}
    group = members(tmp_path, "none", data, curves)
    real_write, written = type(FOLDER).write, []

    def write(folder: object, out: Path, *rest: object) -> None:
        if len(written) == 2:
            raise Killed
        written.append(out)
        real_write(folder, out, *rest)

    monkeypatch.setattr(type(FOLDER), "write", write)
    with pytest.raises(Killed):
        train_group(group, *rest)
    assert list((tmp_path / "group" / "checkpoints").iterdir())
    monkeypatch.setattr(type(FOLDER), "write", real_write)
    train_group(group, *rest)
    assert not (tmp_path / "group" / "checkpoints").exists()
    assert curves == wanted_curves
    for one, other in zip(group, whole, strict=True):
        states = [load_classifier(member.out, CPU).network.state_dict() for member in (one, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("given", "shape", "wanted"),
    [
        ({}, (1, 16, 16), STUDENTS_AT_ONCE),
        ({"network": STUDENTS.choose("resnet8", {"width": 0.5})}, (1, 16, 16), STUDENTS_AT_ONCE),
        ({}, (3, 64, 64), 1),  # too large for grouped convolutions to gain anything
        ({"network": STUDENTS.choose("resnet20")}, (1, 16, 16), 1),
        ({"network": STUDENTS.choose("shufflev2")}, (1, 16, 16), 1),  # it moves channels
        ({"method": METHODS.choose("dkd")}, (1, 16, 16), 1),
        ({"selection": "best-validation"}, (1, 16, 16), 1),
        ({"ema_half_life_images": 100.0}, (1, 16, 16), 1),
        ({"batch_size": LARGEST_BATCH + 1}, (1, 16, 16), 1),
    ],
)
def test_who_is_trained_together(given: dict, shape: tuple[int, int, int], wanted: int) -> None:
    settings = ClassifierSettings(**{"network": STUDENTS.choose("vgg8", {"width": 0.125}), **given})
    assert at_once(settings, shape, load_real("digits").label_space, CPU) == wanted

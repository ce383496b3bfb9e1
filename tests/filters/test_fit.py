"""Fitting a filter: it finds known faults, resumes exactly, gives the same ratios in any batches, refuses bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import filters.fitting as fitting
import filters.ratio_training as ratio_training
from filters import FilterSettings, fit_filter, load_filter
from filters.fake_pool import FIRST_CANDIDATE
from filters.fitting import held_out_rows
from image_data.labels import ClassLabels
from image_data.real import load_real
from image_data.sources import ArraySource
from interfaces import DensityRatio
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.seeds import numbered_keys
from tests.support.noisy_teacher import NoisyTeacher
from tests.support.sealed_cards import reseal

CPU = torch.device("cpu")
SMALL = FilterSettings(
    extractor_steps=120,
    extractor_batch=32,
    extractor_width=8,
    feature_dim=64,
    ratio_steps=200,
    ratio_batch=64,
    fakes_per_real=2,
    fakes_at_least=600,
    validate_every_steps=20,
)
TINY = dataclasses.replace(SMALL, extractor_steps=6, ratio_steps=8, fakes_at_least=200, validate_every_steps=2)


@pytest.fixture(scope="module")
def digits() -> tuple[ArraySource, ClassLabels, NoisyTeacher]:
    data = load_real("digits", real_per_class=20)
    return data.train, data.label_space, NoisyTeacher(data.val, data.label_space)


@pytest.fixture(scope="module")
def fitted(digits: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, space, teacher = digits
    return fit_filter(train, space, teacher, SMALL, tmp_path_factory.mktemp("filter") / "f", CPU, ("translate",))


def candidates(teacher: NoisyTeacher, labels: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    keys = numbered_keys(labels)
    return quantise(teacher.generate(None, labels, keys, 0)), teacher.is_wrong(keys)


def test_wrong_labels_get_low_ratios(digits: tuple, fitted: Path) -> None:
    teacher = digits[2]
    ratio = load_filter(fitted, CPU)
    labels = np.repeat(np.arange(10), 30)
    images, wrong = candidates(teacher, labels)
    r = ratio(images, labels).numpy()
    assert r.dtype == np.float32
    assert (r >= 0).all()
    assert r[~wrong].mean() > 2.0 * r[wrong].mean()
    card = ratio.card
    means = card["mean_ratio"]
    assert means["train_reals"] > means["train_fakes"]
    assert means["held_out_reals"] > means["held_out_fakes"]
    assert card["real_images"] == {"train": 160, "held_out": 40}
    assert not card["is_constant"]
    assert isinstance(ratio, DensityRatio)
    assert ratio.features(images[:5]).shape == (5, 64)
    lines = [json.loads(line) for line in (fitted / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert lines[-1]["step"] == SMALL.extractor_steps + SMALL.ratio_steps
    assert not (fitted / "checkpoints").exists()


def test_ratios_do_not_depend_on_the_batch(digits: tuple, fitted: Path) -> None:
    ratio = load_filter(fitted, CPU)
    labels = np.arange(60) % 10
    images, _ = candidates(digits[2], labels)
    whole = ratio(images, labels)
    pieces = [ratio(images[i : i + 7], labels[i : i + 7]) for i in range(0, 60, 7)]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(ratio(images, labels), whole)


def test_a_finished_folder_is_left_alone(digits: tuple, fitted: Path) -> None:
    before = (fitted / "card.json").stat().st_mtime_ns
    assert fit_filter(*digits, SMALL, fitted, CPU) == fitted
    assert (fitted / "card.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("passages", [1, 3, 6])
def test_a_stopped_run_ends_with_the_same_weights(
    digits: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passages: int
) -> None:
    """The run dies inside a phase (each saves every 3 steps) and is called again."""
    settings = dataclasses.replace(TINY, checkpoint_every_steps=3)
    whole = fit_filter(*digits, settings, tmp_path / "whole", CPU, ("translate",))
    count = 0

    module, name = (ratio_training, "_batch") if passages > 1 else (fitting, "label_loss")
    step = getattr(module, name)

    def dies(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == passages:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        if passages == 1:
            count = -4  # the fifth step of the extractor
        with pytest.raises(KeyboardInterrupt):
            fit_filter(*digits, settings, tmp_path / "cut", CPU, ("translate",))
    assert not (tmp_path / "cut" / "card.json").exists()
    fit_filter(*digits, settings, tmp_path / "cut", CPU, ("translate",))
    for name in ("weights.safetensors", "stats.jsonl", "card.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_unlearnable_difference_ends_as_a_constant(digits: tuple, tmp_path: Path) -> None:
    """A teacher that hands out real images: nothing on held-out images beats the constant 1 by more than noise."""
    train, space, _ = digits
    teacher = NoisyTeacher(load_real("digits").val, space, wrong=0.0)
    folder = fit_filter(train, space, teacher, dataclasses.replace(TINY, ratio_steps=20), tmp_path / "f", CPU)
    means = load_filter(folder, CPU).card["mean_ratio"]
    assert means["held_out_reals"] == pytest.approx(means["held_out_fakes"], rel=0.3)


def test_continuous_labels(tmp_path: Path) -> None:
    data = load_real("rotated-digits", real_per_class=20)
    teacher = NoisyTeacher(data.val, data.label_space)
    settings = dataclasses.replace(SMALL, extractor_steps=300, ratio_steps=250)
    folder = fit_filter(data.train, data.label_space, teacher, settings, tmp_path / "f", CPU, ("translate",))
    ratio = load_filter(folder, CPU)
    labels = np.linspace(-55.0, 55.0, 200)
    images, wrong = candidates(teacher, labels)
    r = ratio(images, labels).numpy()
    assert r.shape == (200,)
    assert r[~wrong].mean() > 1.5 * r[wrong].mean()
    assert ratio.card["extractor_score"]["held_out"] < 25.0  # degrees


def test_held_out_rows_are_stratified() -> None:
    data = load_real("digits", real_per_class=10).train
    train, held = held_out_rows(data.labels, ClassLabels(tuple("0123456789")), 0.2, seed=3)
    assert np.bincount(data.labels[held]).tolist() == [2] * 10
    assert sorted(np.r_[train, held].tolist()) == list(range(100))
    two = np.array([0, 0, 1])
    train, held = held_out_rows(two, ClassLabels(("a", "b")), 0.2, seed=0)
    assert two[held].tolist() == [0]
    assert sorted(two[train].tolist()) == [0, 1]


def test_quantise_and_keys() -> None:
    levels = torch.arange(256, dtype=torch.float64)
    assert torch.equal(quantise((levels / 127.5 - 1.0).float()), levels.to(torch.uint8))
    assert quantise(torch.tensor([-1.5, 1.5, 0.0])).tolist() == [0, 255, 128]
    keys = numbered_keys(np.array([3, 1, 3, 3, 1]), FIRST_CANDIDATE)
    assert (keys[:, 1] - FIRST_CANDIDATE).tolist() == [0, 0, 1, 2, 1]
    assert keys[:, 0].tolist() == [3, 1, 3, 3, 1]
    assert len(numbered_keys(np.zeros(0, dtype=np.int64))) == 0


def test_bad_data_is_refused_before_any_work(digits: tuple, tmp_path: Path) -> None:
    train, space, teacher = digits
    wide = ArraySource(np.zeros((20, 3, 32, 32), dtype=np.uint8), np.arange(20) % 10)
    with pytest.raises(UserError, match="resolution"):
        fit_filter(wide, space, teacher, TINY, tmp_path / "f", CPU)
    with pytest.raises(UserError, match="teacher's labels"):
        fit_filter(train, ClassLabels(tuple("0123456789x")), teacher, TINY, tmp_path / "f", CPU)
    with pytest.raises(UserError, match="9 classes"):
        fit_filter(train, ClassLabels(tuple("012345678")), teacher, TINY, tmp_path / "f", CPU)
    with pytest.raises(UserError, match="at least 2"):
        fit_filter(train.subset(np.array([0])), space, teacher, TINY, tmp_path / "f", CPU)
    with pytest.raises(UserError, match="density-ratio network 'mlp4'"):
        FilterSettings(mlp="mlp4")
    with pytest.raises(UserError, match="held_out"):
        FilterSettings(held_out=1.0)
    with pytest.raises(UserError, match="lr is -1"):
        FilterSettings(lr=-1)
    assert not (tmp_path / "f").exists()


def test_bad_folders_are_named(fitted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished filter"):
        load_filter(tmp_path, CPU)
    for name in ("card.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((fitted / name).read_bytes())
    load_filter(tmp_path, CPU)
    damaged = bytearray((fitted / "weights.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(damaged)
    with pytest.raises(UserError, match="does not match the digest"):
        load_filter(tmp_path, CPU)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_filter(tmp_path, CPU)
    for change, words in (({"format_version": 9}, "format version 9"), ({"kind": "student"}, "not a filter's card")):
        reseal(tmp_path / "card.json", change, fitted / "card.json")
        with pytest.raises(UserError, match=words):
            load_filter(tmp_path, CPU)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(UserError, match=r"card\.json is no readable JSON .*; restore it or fit the filter again"):
        load_filter(tmp_path, CPU)
    whole = (fitted / "card.json").read_text()
    (tmp_path / "card.json").write_text(whole.replace('"mean_ratio": {', '"mean_ratix": {'))
    with pytest.raises(UserError, match="its seal does not match"):
        load_filter(tmp_path, CPU)

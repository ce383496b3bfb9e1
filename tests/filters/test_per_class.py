"""One ratio network a class (DRE-F-SP+RS), and the published networks against a NumPy twin."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import filters.ratio_training as ratio_training
from filters import FilterSettings, fit_filter, load_filter
from filters.density_ratio import RATIO_NETWORKS, PerClassRatio, RatioNetwork
from image_data.labels import ClassLabels
from image_data.real import load_real
from image_data.sources import ArraySource
from interfaces import DensityRatio
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.seeds import numbered_keys
from tests.support.noisy_teacher import NoisyTeacher

CPU = torch.device("cpu")
SMALL = FilterSettings(
    ratio="per-class",
    extractor_steps=100,
    extractor_batch=32,
    extractor_width=8,
    feature_dim=64,
    ratio_steps=40,
    ratio_batch=32,
    fakes_per_real=2,
    fakes_at_least=800,
    validate_every_steps=10,
)
TINY = dataclasses.replace(SMALL, extractor_steps=4, ratio_steps=4, fakes_at_least=100, validate_every_steps=2)

STOPPED = dataclasses.replace(TINY, checkpoint_every_steps=3)


@pytest.fixture(scope="module")
def digits() -> tuple[ArraySource, ClassLabels, NoisyTeacher]:
    data = load_real("digits", real_per_class=20)
    return data.train, data.label_space, NoisyTeacher(data.val, data.label_space)


@pytest.fixture(scope="module")
def whole(digits: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_filter(*digits, STOPPED, tmp_path_factory.mktemp("filter") / "whole", CPU)


@pytest.fixture(scope="module")
def fitted(digits: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_filter(*digits, SMALL, tmp_path_factory.mktemp("filter") / "f", CPU, ("translate",))


def numpy_forward(network: RatioNetwork, features: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """Linear, GroupNorm(8), ReLU, ..., Linear, ReLU, one row at a time in float64."""
    tensors = {name: value.double().numpy() for name, value in network.state_dict().items()}
    found = []
    for row, label in zip(features, encoded, strict=True):
        x = (row - tensors["feature_mean"]) * tensors["feature_scale"]
        if "embedding.weight" in tensors:
            x = np.concatenate([tensors["embedding.weight"][label], x])
        layer = 0
        while f"hidden.{layer}.weight" in tensors:
            x = tensors[f"hidden.{layer}.weight"] @ x + tensors[f"hidden.{layer}.bias"]
            groups = x.reshape(8, -1)
            groups = (groups - groups.mean(axis=1, keepdims=True)) / np.sqrt(groups.var(axis=1, keepdims=True) + 1e-5)
            x = groups.reshape(-1) * tensors[f"hidden.{layer + 1}.weight"] + tensors[f"hidden.{layer + 1}.bias"]
            x, layer = np.maximum(x, 0.0), layer + 4
        found.append(max(float(tensors["output.weight"][0] @ x + tensors["output.bias"][0]), 0.0))
    return np.array(found)


@pytest.mark.parametrize("label_kind", ["classes", "none"])
@pytest.mark.parametrize("name", sorted(RATIO_NETWORKS))
def test_a_network_equals_its_numpy_twin(name: str, label_kind: str) -> None:
    torch.manual_seed(3)
    network = RatioNetwork(10, label_kind, 3, name, 0.05, 0.5).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    features, encoded = torch.randn(12, 10), torch.arange(12) % 3
    network.set_standardisation(features)
    found = network(features, encoded).detach().numpy()
    np.testing.assert_allclose(found, numpy_forward(network, features.numpy(), encoded.numpy()), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mlp3", [2048, 1024, 512]),
        ("mlp5", [2048, 1024, 512, 256, 128]),
        ("mlp7", [2048, 2048, 1024, 1024, 512, 256, 128]),
        ("mlp9", [2048, 2048, 1024, 1024, 512, 512, 256, 256, 128]),
        ("mlp3-regression", [512, 256, 128]),
        ("mlp5-regression", [1024, 512, 256, 128, 64]),
    ],
)
def test_width_one_is_the_published_network(name: str, widths: list[int]) -> None:
    network = RatioNetwork(4, "none", 1, name, 1.0, 0.4)
    linear = [module.out_features for module in network.hidden if isinstance(module, torch.nn.Linear)]
    assert linear == widths
    assert {module.p for module in network.hidden if isinstance(module, torch.nn.Dropout)} == {0.4}
    assert network.output.out_features == 1


def test_each_row_goes_to_the_network_of_its_class() -> None:
    torch.manual_seed(0)
    networks = [RatioNetwork(6, "none", 3, "mlp3", 0.05, 0.4).eval() for _ in range(3)]
    for network in networks:
        torch.nn.init.normal_(network.output.weight)
    joined = PerClassRatio(networks).eval().requires_grad_(False)
    features, encoded = torch.randn(40, 6), torch.arange(40) % 3
    found = joined(features, encoded)
    for row in range(40):
        alone = networks[row % 3](features[row : row + 1], encoded[row : row + 1])
        assert float(found[row]) == pytest.approx(float(alone), rel=1e-4, abs=1e-6)
    assert joined(features[:0], encoded[:0]).shape == (0,)


def test_wrong_labels_get_low_ratios(digits: tuple, fitted: Path) -> None:
    teacher, ratio = digits[2], load_filter(fitted, CPU)
    assert isinstance(ratio, DensityRatio)
    labels = np.repeat(np.arange(10), 30)
    keys = numbered_keys(labels)
    images, wrong = quantise(teacher.generate(None, labels, keys, 0)), teacher.is_wrong(keys)
    r = ratio(images, labels).numpy()
    assert r[~wrong].mean() > 1.5 * r[wrong].mean()
    card = ratio.card
    assert card["ratio"]["form"] == "per-class"
    assert card["ratio"]["classes"] == 10
    assert card["ratio"]["dropout"] == 0.4
    assert len(card["fitted"]["by_class"]) == 10
    steps = [json.loads(line)["step"] for line in (fitted / "stats.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == SMALL.extractor_steps + 10 * SMALL.ratio_steps


@pytest.mark.parametrize("passages", [1, 5, 23])
def test_a_stopped_run_ends_with_the_same_weights(
    digits: tuple, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passages: int
) -> None:
    """Stopped within a class, at the end of one, at the start of the next; checkpoints every 3 steps."""
    count, step = 0, ratio_training._batch

    def dies(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == passages:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ratio_training, "_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            fit_filter(*digits, STOPPED, tmp_path / "cut", CPU)
    assert not (tmp_path / "cut" / "card.json").exists()
    fit_filter(*digits, STOPPED, tmp_path / "cut", CPU)
    for name in ("weights.safetensors", "stats.jsonl", "card.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_has_no_classes_is_refused_before_any_work(digits: tuple, tmp_path: Path) -> None:
    train, space, teacher = digits
    lonely = train.subset(np.r_[np.flatnonzero(train.labels != 3), np.flatnonzero(train.labels == 3)[:1]])
    with pytest.raises(UserError, match="class 3 has 1 real images"):
        fit_filter(lonely, space, teacher, TINY, tmp_path / "f", CPU)
    data = load_real("rotated-digits", real_per_class=2)
    with pytest.raises(UserError, match="needs class labels"):
        fit_filter(data.train, data.label_space, NoisyTeacher(data.val, data.label_space), TINY, tmp_path / "f", CPU)
    with pytest.raises(UserError, match="ratio is 'other'"):
        FilterSettings(ratio="other")  # type: ignore[arg-type]
    assert not (tmp_path / "f").exists()

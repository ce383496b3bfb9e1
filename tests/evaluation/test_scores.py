"""Quality, accuracy and cost of real parts on real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.accuracy import per_image_errors, score
from evaluation.cost import multiply_adds, network_cost, parameter_count
from evaluation.features import choose_feature_network
from evaluation.generated import generated_images
from evaluation.inception import find_weights
from evaluation.judge import Judge, JudgeSettings, load_judge, train_judge
from evaluation.quality import image_quality
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real import RealData, load_real
from image_data.sources import ArraySource
from interfaces import TeacherCard
from runtime.errors import UserError
from training.generator_folder import NetworkGenerator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits")


@pytest.fixture(scope="module")
def judge(digits: RealData, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    out = tmp_path_factory.mktemp("judge")
    train_judge(digits.train, digits.label_space, out, CPU, 3, settings=JudgeSettings(steps=100))
    return load_judge(out, CPU)


def noisy(source: ArraySource, strength: float, seed: int) -> ArraySource:
    noise = np.random.default_rng(seed).normal(0, strength, source.pixels.shape)
    return ArraySource(np.clip(source.pixels + noise, 0, 255).round().astype(np.uint8), source.labels)


def test_quality_orders_sets_and_is_json(digits: RealData, judge: Judge) -> None:
    same, light, heavy = (
        image_quality(noisy(digits.train, strength, 1), digits.val, digits.label_space, judge, judge=judge)
        for strength in (0.0, 30.0, 90.0)
    )
    assert same["metric"] == "FD-judge"
    assert same["score"] < light["score"] < heavy["score"]
    assert same["kernel_distance"]["mean"] < heavy["kernel_distance"]["mean"]
    assert same["label_agreement"]["value"] > heavy["label_agreement"]["value"]
    assert same["precision"] > heavy["precision"]
    assert {"feature_network", "feature_network_digest", "preprocessing", "batch", "dtype", "truncation"} <= set(
        same["protocol"]
    )
    json.dumps(same, allow_nan=False)
    # 30 validation images of each class and 64 features: refused class by class, with the reason.
    assert set(same["per_class"]) == set(digits.label_space.names)
    assert all(entry["score"] is None and "64" in entry["refused"] for entry in same["per_class"].values())
    swapped = image_quality(digits.train, digits.train, digits.label_space, judge)
    assert swapped["score"] == pytest.approx(0.0, abs=1e-6)
    assert all(entry["score"] == pytest.approx(0.0, abs=1e-6) for entry in swapped["per_class"].values())


def test_small_sets_get_a_reason_and_a_kernel_distance(digits: RealData, judge: Judge) -> None:
    few = digits.val.subset(np.arange(40))
    found = image_quality(few, digits.train, digits.label_space, judge)
    assert found["score"] is None
    assert "more than 64 images" in found["score_refused"]
    assert found["kernel_distance"]["standard_error"] > 0
    assert set(found["refused"]) == {"frechet_distance", "label_agreement"}


def test_scores_do_not_depend_on_the_order_of_images(digits: RealData, judge: Judge) -> None:
    order = np.random.default_rng(0).permutation(len(digits.val))
    found = [
        image_quality(source, digits.train, digits.label_space, judge, judge=judge)
        for source in (digits.val, digits.val.subset(order))
    ]
    assert found[0]["score"] == pytest.approx(found[1]["score"], rel=1e-8)
    assert found[0]["kernel_distance"]["mean"] == pytest.approx(found[1]["kernel_distance"]["mean"], rel=1e-8)
    assert found[0]["label_agreement"] == found[1]["label_agreement"]


def test_without_inception_weights_the_judge_steps_in_under_its_own_name(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_weights() is None
    assert choose_feature_network(judge) is judge


def test_error_rate_and_mean_absolute_error(digits: RealData, judge: Judge) -> None:
    found = score(judge, digits.val, digits.label_space, batch_size=37)
    errors = per_image_errors(judge, digits.val, digits.label_space)
    np.testing.assert_array_equal(found["per_image"], errors)
    p = errors.mean()
    assert found["measure"] == "error_rate"
    assert found["value"] == pytest.approx(p)
    assert found["standard_error"] == pytest.approx(np.sqrt(p * (1 - p) / (len(errors) - 1)))

    class Constant:
        card: dict = {}

        def predictions(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 1), 10.0)

    angles = ContinuousLabels(-90.0, 90.0, "degrees")
    source = ArraySource(digits.val.pixels[:3], np.array([-10.0, 10.0, 40.0]))
    turned = score(Constant(), source, angles)
    assert (turned["measure"], turned["unit"], turned["value"]) == ("mae", "degrees", pytest.approx(50 / 3))
    with pytest.raises(UserError, match="no images"):
        score(judge, digits.val.subset(np.arange(0)), digits.label_space)


def test_multiply_adds_follow_the_formulas() -> None:
    image = torch.zeros(3, 8, 10, 10)
    convolution = nn.Conv2d(8, 16, 3, padding=1)
    assert multiply_adds(convolution, [image]) == 10 * 10 * 16 * 8 * 9
    assert multiply_adds(nn.Conv2d(8, 16, 3, stride=2), [image]) == 4 * 4 * 16 * 8 * 9
    assert multiply_adds(nn.Conv2d(8, 8, 3, padding=1, groups=8), [image]) == 10 * 10 * 8 * 9
    assert multiply_adds(nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), [image]) == 10 * 10 * 8 * 4 * 16
    assert multiply_adds(nn.Linear(8, 5), [torch.zeros(2, 8)]) == 40
    assert parameter_count(convolution) == 16 * 8 * 9 + 16


def test_network_cost_measures_and_puts_everything_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train()
    before = torch.get_num_threads()
    cost = network_cost(network, [torch.zeros(2, 1, 16, 16)], 1, batch=8, calls=5)
    assert network.training
    assert torch.get_num_threads() == before
    assert int(network[1].num_batches_tracked) == 0
    assert (cost.parameters, cost.macs, cost.batch) == (4 * 9 + 4 + 8, 14 * 14 * 4 * 9, 8)
    assert 0 < cost.latency_p50_ms <= cost.latency_p95_ms
    assert 0 < cost.batch_latency_p50_ms <= cost.batch_latency_p95_ms
    json.dumps(cost.to_json())


class Painter(nn.Module):
    """Latents tell the grey level, labels the row."""

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        image = torch.tanh(latents[:, :1, None, None]).expand(-1, 1, 8, 8).clone()
        image[torch.arange(len(labels)), 0, labels] = 2.0
        return image


def test_generated_images_are_named_by_label_and_number() -> None:
    space = ClassLabels(("a", "b", "c"))
    card = TeacherCard("painter", {}, 8, 1, space.to_json(), {"distribution": "normal", "dimension": 4}, {}, "", "", [])
    painter = NetworkGenerator(card, Painter(), space, CPU)
    labels = np.array([2, 0, 2, 1, 0, 2])
    found = generated_images(painter, labels, seed=1, block_rows=4)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels[np.arange(6), 0, labels] == 255).all()
    only_twos = generated_images(painter, np.array([2, 2, 2]), seed=1)
    np.testing.assert_array_equal(found.pixels[labels == 2], only_twos.pixels)
    assert len(np.unique(only_twos.pixels[:, 0, 7, 7])) == 3

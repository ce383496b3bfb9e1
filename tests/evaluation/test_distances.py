"""Fréchet distance, kernel distance, precision and recall: against torch-fidelity and NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from evaluation.metrics.frechet_distance import frechet_distance
from evaluation.metrics.kernel_distance import kernel_distance, polynomial_kernel
from evaluation.metrics.precision_recall import precision_recall
from runtime.errors import UserError


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return (draws.normal(size=(count, width)) @ mixing + shift).astype(np.float32)


@pytest.mark.parametrize(("width", "shift"), [(4, 0.0), (24, 0.1), (24, 3.0)])
def test_frechet_equals_torch_fidelity(width: int, shift: float) -> None:
    a, b = features(400, width, 1), features(300, width, 2, shift)
    stats = [fid_features_to_statistics(torch.from_numpy(x).double()) for x in (a, b)]
    want = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)


def test_frechet_of_two_gaussians_in_one_dimension() -> None:
    a, b = features(50, 1, 1), features(60, 1, 2, 1.0)
    want = (a.mean(dtype=float) - b.mean(dtype=float)) ** 2
    want += (a.astype(float).std(ddof=1) - b.astype(float).std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(want), rel=1e-9)


def test_frechet_of_equal_sets_is_zero_even_with_a_singular_covariance() -> None:
    a = features(200, 16, 3)
    a[:, 5] = a[:, 4]
    assert frechet_distance(a, a[::-1]) < 1e-9


def test_too_few_images_are_refused_and_kid_is_named() -> None:
    small, large = features(16, 16, 1), features(100, 16, 2)
    with pytest.raises(UserError, match=r"more than 16 images.*KID"):
        frechet_distance(small, large)
    assert frechet_distance(features(17, 16, 1), large) > 0.0


def naive_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / len(a) + 1.0) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2.0 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_kernel_distance_equals_its_twin_at_any_chunk_size() -> None:
    x, y = features(21, 6, 1).astype(float), features(17, 6, 2, 0.3).astype(float)
    want = naive_kernel_distance(x, y)
    for chunk_rows in (1, 7, 1000):
        assert kernel_distance(x, y, chunk_rows=chunk_rows).mean == pytest.approx(want, rel=1e-10)
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    assert kernel_distance(shuffled, y).mean == pytest.approx(want, rel=1e-10)


def test_kernel_distance_error_bar_equals_a_plain_jackknife() -> None:
    x, y = features(15, 5, 1).astype(float), features(12, 5, 2, 0.5).astype(float)
    over_x = [naive_kernel_distance(np.delete(x, i, 0), y) for i in range(len(x))]
    over_y = [naive_kernel_distance(x, np.delete(y, i, 0)) for i in range(len(y))]
    want = np.sqrt((len(x) - 1) * np.var(over_x) + (len(y) - 1) * np.var(over_y))
    assert kernel_distance(x, y).standard_error == pytest.approx(float(want), rel=1e-8)


def test_kernel_distance_equals_torch_fidelity_on_one_subset_of_all_images() -> None:
    x, y = features(110, 8, 1).astype(float), features(110, 8, 2, 0.2).astype(float)
    pair = torch.from_numpy(x), torch.from_numpy(y)
    want = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=110, rng_seed=2020, verbose=False)
    assert kernel_distance(x, y).mean == pytest.approx(want["kernel_inception_distance_mean"], rel=1e-8)


def test_kernel_distance_is_unbiased_and_its_error_bar_covers() -> None:
    found = [kernel_distance(features(60, 4, s), features(60, 4, 1000 + s)) for s in range(60)]
    means = np.array([value.mean for value in found])
    bars = np.array([value.standard_error for value in found])
    assert abs(means.mean()) < 3 * means.std() / np.sqrt(len(means))
    assert (np.abs(means) < 2 * bars).mean() > 0.9
    far = kernel_distance(features(60, 4, 1), features(60, 4, 2, 1.0))
    assert far.mean > 5 * far.standard_error
    np.testing.assert_allclose(polynomial_kernel(np.eye(2), np.eye(2)), [[1.5**3, 1.0], [1.0, 1.5**3]])
    with pytest.raises(UserError, match="3 or more"):
        kernel_distance(np.zeros((2, 3)), np.zeros((9, 3)))


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_and_recall_equal_torch_fidelity(neighbours: int) -> None:
    fake, real = features(150, 4, 1), features(130, 4, 2, 0.4)
    pair = torch.from_numpy(fake).double(), torch.from_numpy(real).double()
    want = prc_features_to_metric(*pair, prc_neighborhood=neighbours, prc_batch_size=64, verbose=False)
    found = precision_recall(fake, real, neighbours=neighbours, chunk_rows=37)
    assert found == pytest.approx((want["precision"], want["recall"]), abs=1e-6)
    assert precision_recall(real, real) == (1.0, 1.0)
    with pytest.raises(UserError, match="more than 3"):
        precision_recall(fake[:3], real)

"""The loss and the networks of the density ratio."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.density_ratio import RATIO_NETWORKS, RatioNetwork, penalised_softplus
from filters.features import FeatureNetwork, default_feature_dim
from tests.support.float64 import float64_trainings

REGISTERED = sorted(RATIO_NETWORKS)


def numpy_loss(real: np.ndarray, fake: np.ndarray, penalty: float) -> float:
    sigmoid = lambda r: 1.0 / (1.0 + np.exp(-r))  # noqa: E731
    first = [sigmoid(r) * r - np.log1p(np.exp(r)) for r in fake]
    second = [sigmoid(r) for r in real]
    return float(np.mean(first) - np.mean(second) + penalty * (np.mean(fake) - 1.0) ** 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 10), st.integers(0, 99))
def test_the_loss_is_its_formula(reals: int, fakes: int, penalty: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    real, fake = random.exponential(size=reals), random.exponential(size=fakes)
    found = penalised_softplus(torch.tensor(real), torch.tensor(fake), penalty)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(numpy_loss(real, fake, penalty), rel=1e-5, abs=1e-5)


def test_the_true_ratio_minimises_the_loss() -> None:
    """Over a grid, the loss of p and q is lowest at r = p / q; the penalty adds nothing there, since E_q[p / q] = 1."""
    p, q = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.5, 0.3, 0.2])

    def loss(r: torch.Tensor) -> float:
        value = (q * (torch.sigmoid(r) * r - torch.nn.functional.softplus(r))).sum() - (p * torch.sigmoid(r)).sum()
        return float(value + 0.5 * ((q * r).sum() - 1.0) ** 2)

    best = loss(p / q)
    for seed in range(50):
        other = (p / q + 0.3 * torch.randn(3, generator=torch.Generator().manual_seed(seed))).clamp_min(0)
        assert loss(other) > best


def test_fitting_finds_the_ratio_of_two_gaussians() -> None:
    """Real N(+-1, 1) by class, fakes N(0, 1.5): the fitted r orders points as the true ratio does, class by class."""
    torch.manual_seed(0)
    labels = torch.arange(3000) % 2
    centre = (labels * 2.0 - 1.0)[:, None]
    real, fake = centre + torch.randn(3000, 1), 1.5 * torch.randn(3000, 1)
    network = RatioNetwork(1, "classes", 2, "mlp3", 0.06, 0.0)
    assert torch.equal(network(real, labels), torch.ones(3000))  # a fresh network says nothing
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.5, 0.999))
    for step in range(400):
        rows = torch.randint(3000, (256,), generator=torch.Generator().manual_seed(step))
        loss = penalised_softplus(network(real[rows], labels[rows]), network(fake[rows], labels[rows]), 1e-2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grid = torch.linspace(-2.5, 2.5, 60)[:, None]
    for label in (0, 1):
        asked = torch.full((60,), label)
        found = network.eval()(grid, asked).detach().numpy()
        x, mean = grid[:, 0].numpy(), 2.0 * label - 1.0
        true = 1.5 * np.exp(-0.5 * (x - mean) ** 2 + 0.5 * (x / 1.5) ** 2)
        ranks = [np.argsort(np.argsort(values)) for values in (found, true)]
        assert np.corrcoef(*ranks)[0, 1] > 0.9
        assert np.abs(found - true).mean() < 0.35
    assert network(fake, labels).mean().item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize(("kind", "width"), [("classes", 4), ("continuous", 1), ("continuous", 3)])
def test_every_network_gives_ratios(name: str, kind: str, width: int) -> None:
    torch.manual_seed(1)
    with (
        float64_trainings(),
        torch.no_grad(),
    ):  # a block size changes sums, by rounding alone
        network = RatioNetwork(12, kind, width, name, 0.05, 0.5).eval()
        encoded = torch.arange(30) % 4 if kind == "classes" else torch.rand(30, width)
        features = torch.randn(30, 12)
        torch.nn.init.normal_(network.output.weight, std=3.0)
        torch.nn.init.constant_(network.output.bias, 100.0)
        network.output.bias.sub_(network(features, encoded).median())
        found = network(features, encoded)
        parts = torch.cat([network(features[:7], encoded[:7]), network(features[7:], encoded[7:])])
    assert found.shape == (30,)
    assert (found >= 0).all()
    assert 0 < int((found > 0).sum()) < 30  # the ReLU bites, and not everywhere
    torch.testing.assert_close(parts, found, rtol=1e-9, atol=1e-9)
    assert len(REGISTERED) == 6


def test_standardisation_survives_a_constant_feature() -> None:
    network = RatioNetwork(3, "classes", 2, "mlp3", 0.05, 0.5)
    features = torch.cat([torch.zeros(50, 1), 100.0 * torch.randn(50, 2) + 7.0], dim=1)
    network.set_standardisation(features)
    assert torch.isfinite(network(features, torch.zeros(50, dtype=torch.int64))).all()


@pytest.mark.parametrize(("channels", "resolution_px"), [(1, 16), (3, 32), (3, 64)])
def test_extractor_shapes(channels: int, resolution_px: int) -> None:
    torch.manual_seed(0)
    d = default_feature_dim(channels, resolution_px)
    network = FeatureNetwork(channels, resolution_px, d, 8, 5, "classes").eval()
    images = torch.randint(0, 256, (3, channels, resolution_px, resolution_px), dtype=torch.uint8)
    features = network.features(images)
    assert features.shape == (3, d)
    assert d <= 512
    agreement = network.agreement(features, torch.tensor([0, 1, 4]))
    outputs = network(images).detach().double().numpy()
    slow = [outputs[i, y] - np.log(np.exp(outputs[i]).sum()) for i, y in enumerate((0, 1, 4))]
    np.testing.assert_allclose(agreement.detach().numpy(), np.maximum(slow, -8.0), rtol=1e-4)

"""Losses, DiffAugment and weight averaging, against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layers.diffaugment import POLICIES, diff_augment
from layers.gan_losses import hinge_discriminator, hinge_generator, r1_penalty
from layers.spectral_norm import spectral
from runtime.errors import UserError
from training.ema import ExponentialMovingAverage, accumulate_standing_statistics

numbers = st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3)


@settings(max_examples=30, deadline=None)
@given(numbers, numbers, st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_hinge_equals_its_numpy_twin(real, fake, weights):
    r, f, w = np.array(real), np.array(fake), np.array(weights)
    plain = np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()
    weighted = (w * np.maximum(0, 1 - r)).mean() + (w * np.maximum(0, 1 + f)).mean()
    tr, tf, tw = torch.tensor(real), torch.tensor(fake), torch.tensor(weights)
    assert float(hinge_discriminator(tr, tf)) == pytest.approx(plain, abs=1e-5)
    assert float(hinge_discriminator(tr, tf, tw, tw)) == pytest.approx(weighted, abs=1e-5)
    assert float(hinge_generator(tf)) == pytest.approx(-f.mean(), abs=1e-5)


def test_r1_of_a_linear_map_is_its_squared_norm():
    weight = torch.randn(3, 4, 4)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    assert float(r1_penalty((x * weight).sum(dim=(1, 2, 3)), x)) == pytest.approx(
        float(weight.square().sum()), rel=1e-5
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_a_function_of_the_generator_and_passes_gradients(name, channels):
    x = torch.rand(6, channels, 16, 16) * 2 - 1
    x.requires_grad_(True)

    def augment(seed: int) -> torch.Tensor:
        return diff_augment(x, [name], torch.Generator().manual_seed(seed))

    assert torch.equal(augment(1), augment(1))
    assert not torch.equal(augment(1), augment(2))
    assert augment(1).shape == x.shape
    augment(1).sum().backward()
    assert float(x.grad.abs().sum()) > 0


def test_translation_equals_its_numpy_twin():
    x = torch.rand(40, 2, 16, 16) + 0.1
    moved = diff_augment(x, ["translation"], torch.Generator().manual_seed(3)).numpy()
    draws = torch.rand(2, 40, generator=torch.Generator().manual_seed(3)).numpy()
    shifts = np.minimum((draws * 5).astype(int), 4) - 2
    assert set(shifts.reshape(-1)) == {-2, -1, 0, 1, 2}
    for index in range(40):
        down, right = shifts[:, index]
        for row in range(16):
            for column in range(16):
                inside = 0 <= row + down < 16 and 0 <= column + right < 16
                expected = x[index, :, row + down, column + right].numpy() if inside else 0.0
                np.testing.assert_array_equal(moved[index, :, row, column], expected)


def test_cutout_hides_at_most_a_quarter_and_flip_mirrors():
    x = torch.rand(50, 1, 16, 16) + 0.5
    hidden = (diff_augment(x, ["cutout"], torch.Generator().manual_seed(0)) == 0).float().mean(dim=(1, 2, 3))
    assert float(hidden.max()) == 0.25
    assert float(hidden.min()) > 0
    flipped = diff_augment(x, ["flip"], torch.Generator().manual_seed(0))
    mirrored = (flipped == x.flip(3)).flatten(1).all(dim=1)
    kept = (flipped == x).flatten(1).all(dim=1)
    assert bool((mirrored | kept).all())
    assert 10 < int(mirrored.sum()) < 40


def test_no_policy_leaves_images_alone_and_an_unknown_one_is_refused():
    x = torch.rand(2, 1, 8, 8)
    assert diff_augment(x, [], torch.Generator()) is x
    with pytest.raises(UserError, match="diffaugment policy 'rotation'"):
        diff_augment(x, ["rotation"], torch.Generator())


def test_average_equals_its_twin_and_ramps_up():
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    average = ExponentialMovingAverage(layer, half_life_images=100.0)
    expected, seen = layer.weight.detach().numpy().copy(), 0
    for _ in range(60):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 2))
        average.update(layer, 50)
        seen += 50
        keep = 0.5 ** (50 / min(100.0, 0.05 * seen))
        expected = keep * expected + (1 - keep) * layer.weight.detach().numpy()
    np.testing.assert_allclose(average.module.weight.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_average_copies_spectral_vectors_and_counters():
    network = nn.Sequential(spectral(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2)).train()
    average = ExponentialMovingAverage(network, half_life_images=1e6)
    for _ in range(3):
        network(torch.randn(4, 1, 5, 5))
        average.update(network, 4)
    mine, theirs = average.module.state_dict(), network.state_dict()
    copied = [name for name in mine if name.endswith(("_u", "_v", "num_batches_tracked"))]
    assert len(copied) == 3
    assert all(torch.equal(mine[name], theirs[name]) for name in copied)


def test_standing_statistics_are_those_of_the_network_and_are_repeatable():
    torch.manual_seed(0)
    network = nn.Sequential(spectral(nn.Conv2d(1, 3, 3)), nn.BatchNorm2d(3)).eval()

    def draw(index: int) -> tuple[torch.Tensor]:
        return (torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(index)) + 2.0,)

    accumulate_standing_statistics(network, draw, 20)
    assert not network.training
    assert network[1].momentum == 0.1
    first = {name: value.clone() for name, value in network.state_dict().items()}
    out = torch.cat([network(*draw(index)) for index in range(20)])
    assert out.mean(dim=(0, 2, 3)).abs().max() < 1e-2
    assert (out.var(dim=(0, 2, 3)) - 1).abs().max() < 2e-2
    accumulate_standing_statistics(network, draw, 20)
    torch.testing.assert_close(network[1].running_mean, first["1.running_mean"], rtol=1e-3, atol=1e-3)

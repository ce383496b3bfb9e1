"""Conditional norm, spectral norm, label embedding, attention and the discriminator, against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from layers.attention import SelfAttention2d
from layers.conditional_norm import ConditionalBatchNorm2d
from layers.discriminators import DISCRIMINATORS
from layers.discriminators.projection import ProjectionDiscriminator
from layers.label_embedding import LabelEmbedding
from layers.spectral_norm import fold_spectral, spectral


def test_conditional_norm_equals_its_numpy_twin():
    torch.manual_seed(0)
    norm = ConditionalBatchNorm2d(3, 5).train()
    x, c = torch.randn(4, 3, 2, 2) * 3 + 1, torch.randn(4, 5)
    got = norm(x, c).detach().numpy()
    images = x.numpy().astype(np.float64)
    mean = images.mean(axis=(0, 2, 3), keepdims=True)
    deviation = np.sqrt(images.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    gain = c.numpy() @ norm.gain.weight.detach().numpy().T
    bias = c.numpy() @ norm.bias.weight.detach().numpy().T
    expected = (images - mean) / deviation * (1 + gain[:, :, None, None]) + bias[:, :, None, None]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_conditional_norm_starts_nearly_unconditional():
    norm = ConditionalBatchNorm2d(8, 16).eval()
    x = torch.randn(2, 8, 4, 4)
    assert (norm(x, torch.zeros(2, 16)) - norm(x, torch.ones(2, 16))).abs().max() < 1.0


def test_spectral_weight_approaches_norm_one_and_folds_to_the_bit():
    torch.manual_seed(0)
    network = nn.Sequential(spectral(nn.Conv2d(2, 6, 3)), nn.ReLU(), spectral(nn.Conv2d(6, 4, 1)))
    x = torch.randn(2, 2, 5, 5)
    network.train()
    for _ in range(50):
        network(x)
    network.eval()
    weight = network[0].weight.detach().reshape(6, -1).numpy()
    assert np.linalg.svd(weight)[1][0] == pytest.approx(1.0, abs=1e-3)
    before = network(x)
    network.train()
    folded = fold_spectral(network)
    assert folded is network
    assert network.training
    assert set(network.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(network.eval()(x), before)
    assert all(parameter.is_leaf for parameter in network.parameters())


def test_spectral_can_be_switched_off():
    assert set(spectral(nn.Linear(2, 2), False).state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dimension", [1, 3])
def test_continuous_embedding_is_smooth_and_tells_labels_apart(dimension):
    torch.manual_seed(0)
    embed = LabelEmbedding("continuous", dimension, 16)
    y = torch.linspace(0, 1, 201)[:, None].repeat(1, dimension)
    vectors = embed(y)
    assert vectors.shape == (201, 16)
    near = (vectors[1:] - vectors[:-1]).norm(dim=1).max()
    far = (vectors[0] - vectors[-1]).norm()
    assert near < 0.3 * far
    assert torch.isfinite(embed(torch.full((1, dimension), 1.2))).all()


def test_class_embedding_is_a_table():
    embed = LabelEmbedding("classes", 4, 7)
    assert torch.equal(embed(torch.tensor([3, 0])), embed.table.weight[[3, 0]])


def test_attention_equals_its_numpy_twin_and_starts_as_the_identity():
    torch.manual_seed(0)
    layer = SelfAttention2d(8, spectral_normed=False)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(layer(x), x)
    layer.gamma.data.fill_(0.7)

    def conv(part: nn.Conv2d) -> np.ndarray:
        return np.einsum("oi,ihw->ohw", part.weight.detach().numpy()[:, :, 0, 0], x[0].numpy())

    def pool(maps: np.ndarray) -> np.ndarray:
        return maps.reshape(len(maps), 2, 2, 2, 2).max(axis=(2, 4)).reshape(len(maps), -1)

    theta, phi, g = conv(layer.theta).reshape(1, -1), pool(conv(layer.phi)), pool(conv(layer.g))
    scores = theta.T @ phi
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mixed = layer.o.weight.detach().numpy()[:, :, 0, 0] @ (g @ weights.T)
    expected = x[0].numpy() + 0.7 * mixed.reshape(8, 4, 4)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(DISCRIMINATORS))
@pytest.mark.parametrize("kind", ["classes", "continuous"])
def test_contract_of_every_discriminator(name: str, kind: str) -> None:
    """Logits and maps of any size of image, each image alone; both kinds of labels matter."""
    for resolution_px, channels in ((16, 1), (28, 3), (32, 3)):
        torch.manual_seed(0)
        network = DISCRIMINATORS.build(DISCRIMINATORS.choose(name), resolution_px, channels, kind, 3).eval()
        images = torch.randn(4, channels, resolution_px, resolution_px)
        labels = torch.tensor([0, 1, 2, 0]) if kind == "classes" else torch.rand(4, 3)
        logits = network(images, labels)
        assert logits.shape == (4,)
        assert len(network.features(images)) == len(network.blocks)
        torch.testing.assert_close(network(images[:1], labels[:1]), logits[:1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(network(images, labels.roll(1, 0)), logits)


@pytest.mark.parametrize("resolution_px", [16, 32, 64, 128])
@pytest.mark.parametrize("kind", ["classes", "continuous"])
def test_discriminator_judges_each_image_alone(resolution_px, kind):
    torch.manual_seed(0)
    width = 5 if kind == "classes" else 2
    network = ProjectionDiscriminator(resolution_px, 3, kind, width, 2, attention_px=8).eval()
    x = torch.randn(3, 3, resolution_px, resolution_px)
    y = torch.tensor([0, 4, 2]) if kind == "classes" else torch.rand(3, 2)
    logits = network(x, y)
    assert logits.shape == (3,)
    torch.testing.assert_close(network(x[1:2], y[1:2]), logits[1:2], rtol=1e-4, atol=1e-4)
    maps = network.features(x)
    assert maps[0].shape[2] == resolution_px // 2
    assert maps[-1].shape[2] == 4
    assert not torch.allclose(network(x, y.flip(0))[0], logits[0])
    torch.testing.assert_close(network.logits(maps[-1], y), logits)


def test_discriminator_refuses_what_it_cannot_halve():
    with pytest.raises(ValueError, match="too small"):
        ProjectionDiscriminator(4, 1, "classes", 2, 4)


@pytest.mark.parametrize("size", [8, 13, 24, 28, 33])
def test_a_widening_discriminator_takes_any_size(size: int) -> None:
    network = ProjectionDiscriminator(size, 1, "classes", 2, 4)
    images = torch.rand(3, 1, size, size, requires_grad=True)
    network(images, torch.tensor([0, 1, 1])).sum().backward()
    assert network.features(images)[-1].shape[2] == 4
    assert images.grad is not None
    assert bool((images.grad.abs().sum(dim=(0, 1)) > 0).all())

"""The StyleGAN2-ADA network against a plain rendering, and its import from snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from image_data.labels import ClassLabels, ContinuousLabels
from layers.features import FeatureReader, Insides
from runtime.errors import UserError
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import convert, expected_shapes, import_stylegan2_ada, read_arguments
from teacher_sampler.importers.writing import teacher_card
from teacher_sampler.loading import load_teacher
from teacher_sampler.networks import TEACHERS
from teacher_sampler.networks.stylegan2 import StyleGAN2Generator
from tests.support.stylegan2_snapshots import TINY, random_plain, write_snapshot
from training.generator_folder import save_generator

VARIANTS: dict[str, dict[str, Any]] = {
    "conditional": {},
    "unconditional, wider": {
        "c_dim": 0,
        "img_resolution": 32,
        "img_channels": 1,
        "mapping_kwargs": {"num_layers": 3, "layer_features": 9, "lr_multiplier": 0.5},
        "synthesis_kwargs": {"channel_base": 128, "channel_max": 6},
    },
    "clamped, own embedding": {
        "mapping_kwargs": {"num_layers": 1, "embed_features": 4},
        "synthesis_kwargs": {"channel_base": 64, "channel_max": 12, "conv_clamp": 0.5},
    },
}


def pair(seed: int = 0, **changes: Any) -> tuple[torch.nn.Module, StyleGAN2Generator]:
    """A plain network and ours with its tensors."""
    plain = random_plain(seed, **changes)
    arguments, lr_multiplier = read_arguments({**TINY, **changes}, Path("plain"))
    ours = StyleGAN2Generator(**arguments)
    ours.load_state_dict(convert(plain.state_dict(), arguments, lr_multiplier))
    return plain, ours.eval().requires_grad_(False)


def some_inputs(count: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and classes."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, TINY["z_dim"], generator=generator), torch.arange(count) % max(1, classes)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("psi", "cutoff"), [(1.0, None), (0.5, None), (0.5, 3), (0.0, 0)])
@pytest.mark.parametrize("mode", ["const", "random", "none"])
def test_it_equals_the_plain_rendering(name, psi, cutoff, mode):
    plain, ours = pair(**VARIANTS[name])
    classes = VARIANTS[name].get("c_dim", 3)
    z, y = some_inputs(5, classes)
    ours.noise_mode = mode
    ours.truncate(psi, cutoff)
    noise = torch.randn(5, ours.noise_numbers) if mode == "random" else None
    onehot = F.one_hot(y, classes).float() if classes else None
    with torch.inference_mode():
        expected = plain(z, onehot, psi, cutoff, mode, noise)
        torch.testing.assert_close(ours(z, y, noise), expected, rtol=1e-4, atol=1e-4)
    assert expected.std(dim=0).max() > 0.01 or psi == 0


def test_tensor_names_and_shapes_are_the_published_ones():
    for changes in VARIANTS.values():
        arguments, _ = read_arguments({**TINY, **changes}, Path("plain"))
        found = {name: tuple(value.shape) for name, value in random_plain(**changes).state_dict().items()}
        assert found == expected_shapes(arguments)


def test_an_image_does_not_depend_on_its_batch():
    _, ours = pair()
    z, y = some_inputs(9)
    ours.noise_mode = "random"
    noise = torch.randn(9, ours.noise_numbers)
    with torch.inference_mode():
        whole = ours(z, y, noise)
        for row in range(9):
            alone = ours(z[row : row + 1], y[row : row + 1], noise[row : row + 1])
            torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(whole[0], ours(z, y, noise.flip(0))[0], atol=1e-3)


def test_how_many_numbers_of_noise_an_image_takes():
    _, ours = pair(img_resolution=16)
    for mode, count in (("const", 0), ("none", 0), ("random", 16 + 2 * 64 + 2 * 256)):
        ours.noise_mode = mode
        assert ours.noise_numbers == count
    z, y = some_inputs(2)
    torch.manual_seed(3)
    drawn = ours(z, y)
    torch.manual_seed(3)
    assert torch.equal(ours(z, y, torch.randn(2, ours.noise_numbers)), drawn)
    assert not torch.equal(ours(z, y), drawn)


def test_a_network_without_noise_has_no_noise_tensors():
    arguments, _ = read_arguments({**TINY, "synthesis_kwargs": {"use_noise": False, "channel_max": 4}}, Path("x"))
    assert not any("noise" in name for name in expected_shapes(arguments))
    network = StyleGAN2Generator(**arguments, noise_mode="random")
    assert network.noise_numbers == 0
    assert not any("noise" in name for name in network.state_dict())
    assert network(*some_inputs(2)).shape == (2, 3, 8, 8)


def test_blocks_are_what_methods_on_features_read():
    _, ours = pair(img_resolution=16)
    inputs = some_inputs(2)
    features = FeatureReader(ours, ["blocks.0", "blocks.1", "blocks.2"])(*inputs).features
    assert [tuple(value.shape) for value in features.values()] == [(2, 7, 4, 4), (2, 4, 8, 8), (2, 2, 16, 16)]
    assert Insides(ours, inputs, "teacher").maps_by_size() == {
        (4, 4): "blocks.0", (8, 8): "blocks.1", (16, 16): "blocks.2",
    }  # fmt: skip


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_gradients_reach_latents_and_weights(clamp):
    torch.manual_seed(0)
    network = StyleGAN2Generator(8, 3, latent_dim=5, w_dim=6, channel_base=32, channel_max=7, conv_clamp=clamp)
    z = torch.randn(3, 5, requires_grad=True)
    network(z, torch.zeros(3, dtype=torch.int64)).square().sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters())
    double = network.double()

    def rows(latents: torch.Tensor) -> torch.Tensor:
        return double(latents, torch.zeros(len(latents), dtype=torch.int64)).square().mean(dim=(1, 2, 3))

    assert torch.autograd.gradcheck(rows, (torch.randn(2, 5, dtype=torch.float64, requires_grad=True),), eps=1e-6)


def test_an_untrained_network_gives_values_of_order_one():
    torch.manual_seed(0)
    network = StyleGAN2Generator(32, 3, latent_dim=64, label_classes=4, w_dim=64, channel_base=1024, channel_max=64)
    images = network(torch.randn(8, 64), torch.arange(8) % 4)
    assert 0.3 < images.std() < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution_px": 24}, "resolution 24"),
        ({"resolution_px": 4}, "resolution 4"),
        ({"noise_mode": "loud"}, "noise mode 'loud'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        StyleGAN2Generator(**{"resolution_px": 8, "channels": 3, "channel_max": 4, **arguments})


@pytest.mark.parametrize("truncation", [{"psi": float("nan")}, {"psi": 0.5, "cutoff": 7}, {"psi": 0.5, "cutoff": -1}])
def test_impossible_truncations_are_refused(truncation):
    with pytest.raises(UserError, match="truncation psi"):
        pair()[1].truncate(**truncation)


def test_label_spaces_must_be_the_networks_classes():
    arguments = read_arguments(TINY, Path("x"))[0]
    assert TEACHERS.get("stylegan2-ada")(ClassLabels(("a", "b", "c")), **arguments).latent_dim == 5
    for space in (ClassLabels(("a", "b")), ContinuousLabels(0.0, 1.0)):
        with pytest.raises(UserError, match="has 3 classes"):
            TEACHERS.get("stylegan2-ada")(space, **arguments)


def test_from_snapshot_to_folder_to_the_same_images(tmp_path):
    plain = random_plain()
    path = write_snapshot(tmp_path / "network-snapshot-000001.pkl", plain)
    request = ImportRequest(str(path), truncation=0.6, truncation_cutoff=2, noise_mode="random", licence="free")
    imported = import_stylegan2_ada(request)
    save_generator(tmp_path / "teacher", teacher_card(imported, request, {}), imported.network)
    teacher = load_teacher(tmp_path / "teacher", torch.device("cpu"))
    labels = np.array([0, 1, 2, 1])
    keys = np.stack([labels, np.arange(4)], axis=1)
    latents = teacher.latents(keys, 7)
    images = teacher.generate(latents, labels, keys, 7)
    assert torch.equal(teacher.generate(latents, labels, keys, 7), images)
    assert not torch.allclose(teacher.generate(latents, labels, keys, 8), images, atol=1e-3)  # the seed names the noise
    assert teacher.card.truncation == {"psi": 0.6, "cutoff": 2}
    teacher.network.noise_mode = "const"
    expected = plain(latents, F.one_hot(torch.from_numpy(labels), 3).float(), 0.6, 2, "const")
    torch.testing.assert_close(teacher.generate(latents, labels, keys, 7), expected, rtol=1e-4, atol=1e-4)


BAD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "architecture": {"synthesis_kwargs": {**TINY["synthesis_kwargs"], "architecture": "resnet"}},
    "activation": {"mapping_kwargs": {"num_layers": 2, "activation": "relu"}},
    "filter": {"synthesis_kwargs": {**TINY["synthesis_kwargs"], "resample_filter": [1, 1]}},
    "conv_clamp": {"synthesis_kwargs": {**TINY["synthesis_kwargs"], "conv_clamp": "much"}},
    "num_layers": {"mapping_kwargs": {"num_layers": 0}},
    "z_dim": {"z_dim": 1 << 40},
    "w_dim": {"w_dim": None},
    "magnitude_ema_beta": {"synthesis_kwargs": {**TINY["synthesis_kwargs"], "magnitude_ema_beta": 0.9}},
    "resolution 48": {"img_resolution": 48},
    "unknown form": {"mapping_kwargs": [1, 2]},
    "channels": {"synthesis_kwargs": {"channel_base": 1}},
}


@pytest.mark.parametrize("named", BAD_ARGUMENTS)
def test_arguments_that_cannot_be_honoured_are_refused_by_name(tmp_path, named):
    path = write_snapshot(tmp_path / "snapshot.pkl", random_plain(), **BAD_ARGUMENTS[named])
    with pytest.raises(UserError, match=named) as caught:
        import_stylegan2_ada(ImportRequest(str(path)))
    assert "snapshot.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_resolution": 16}, "synthesis.b16.resample_filter is missing"),
        ({"c_dim": 0}, "mapping.embed.weight is surplus"),
        ({"w_dim": 8}, r"mapping.w_avg has shape \[6\] in place of \[8\]"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(tmp_path, changes, message):
    path = write_snapshot(tmp_path / "snapshot.pkl", random_plain(), **changes)
    with pytest.raises(UserError, match=message):
        import_stylegan2_ada(ImportRequest(str(path)))


def test_numbers_that_are_wrong_are_refused(tmp_path):
    plain = random_plain()
    plain.synthesis.b8.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"synthesis\.b8\.conv1\.weight holds numbers that are not finite"):
        import_stylegan2_ada(ImportRequest(str(write_snapshot(tmp_path / "snapshot.pkl", plain))))
    plain = random_plain()
    plain.synthesis.b8.conv0.resample_filter.mul_(2)
    with pytest.raises(UserError, match=r"b8\.conv0\.resample_filter is no"):
        import_stylegan2_ada(ImportRequest(str(write_snapshot(tmp_path / "snapshot.pkl", plain))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": -0.5}, "--truncation -0.5"),
        ({"truncation": float("inf")}, "--truncation inf"),
        ({"truncation_cutoff": 2}, "--truncation-cutoff"),
        ({"truncation": 0.5, "truncation_cutoff": 99}, "cutoff 99"),
        ({"class_names": ("a",)}, "--class-names"),
        ({"noise_mode": "loud"}, "noise mode"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    path = write_snapshot(tmp_path / "snapshot.pkl", random_plain())
    with pytest.raises(UserError, match=message):
        import_stylegan2_ada(ImportRequest(str(path), **options))

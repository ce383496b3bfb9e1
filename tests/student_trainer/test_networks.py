"""Every registered student generator keeps the contract; sizes are those of the published network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from runtime.errors import UserError
from student_trainer import GENERATORS
from student_trainer.networks.tinygan import TinyGan, UpBlock, block_widths, canvas_for

EXPECTED_NETWORKS = {"tinygan"}
LATENT = 10


def build(name: str = "tinygan", resolution_px: int = 16, kind: str = "classes", labels: int = 4, **more: object):
    torch.manual_seed(0)
    small = {"base_width": 4, "embedding_dim": 5} if name == "tinygan" else GENERATORS.choose(name).arguments()
    return GENERATORS.get(name)(resolution_px, 3, LATENT, kind, labels, **{**small, **more})


def inputs(kind: str, labels: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(count, LATENT, generator=generator)
    if kind == "classes":
        return latents, torch.arange(count) % labels
    return latents, torch.rand(count, labels, generator=generator)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_contract(name: str) -> None:
    for resolution_px in (16, 32, 64, 128):
        for kind, labels in (("classes", 4), ("continuous", 1), ("continuous", 2)):
            student = build(name, resolution_px, kind, labels)
            latents, encoded = inputs(kind, labels)
            images = student(latents, encoded)
            assert images.shape == (3, 3, resolution_px, resolution_px)
            assert images.dtype == torch.float32
            assert float(images.detach().abs().max()) <= 1.0
            images.square().mean().backward()
            silent = [path for path, parameter in student.named_parameters() if parameter.grad is None]
            assert silent == []
            student.eval()
            with torch.no_grad():
                alone = torch.cat([student(latents[i : i + 1], encoded[i : i + 1]) for i in range(3)])
                assert torch.allclose(alone, student(latents, encoded), atol=1e-5)
                other = torch.flip(encoded, (0,)) if kind == "classes" else 1 - encoded
                assert not torch.allclose(student(latents, other), student(latents, encoded))
            assert "blocks.0" in dict(student.named_modules())


def test_the_contract_runs_over_every_entry() -> None:
    (marks,) = test_contract.pytestmark  # type: ignore[attr-defined]
    assert set(marks.args[1]) == set(GENERATORS) >= EXPECTED_NETWORKS


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_depthwise_convolutions_have_the_published_count() -> None:
    # 3 x 3 depthwise (9 weights, 1 bias a channel) + 1 x 1 pointwise, twice, + 1 x 1 shortcut.
    block = UpBlock(8, 4, 6, "depthwise", "bilinear")
    convolutions = (10 * 8 + 8 * 4 + 4) + (10 * 4 + 4 * 4 + 4) + (8 * 4 + 4)
    norms = 2 * 6 * 8 + 2 * 6 * 4
    assert parameters(block) == convolutions + norms
    full = UpBlock(8, 4, 6, "full", "bilinear")
    assert parameters(full) == (9 * 8 * 4 + 4) + (9 * 4 * 4 + 4) + (8 * 4 + 4) + norms


def test_widths_at_each_resolution() -> None:
    assert block_widths(32, 32, 512) == [128, 128, 64, 32]
    assert block_widths(128, 32, 512) == [512, 512, 256, 128, 64, 32]
    assert block_widths(64, 32, 100) == [100, 100, 100, 64, 32]


@pytest.mark.parametrize("conditions", ["none", "chunk", "all"])
@pytest.mark.parametrize("convolutions", ["depthwise", "full"])
@pytest.mark.parametrize(("upsampling", "start_hidden"), [("bilinear", 0), ("nearest", 16)])
def test_every_option_builds_and_every_latent_number_matters(
    conditions: str, convolutions: str, upsampling: str, start_hidden: int
) -> None:
    student = build(
        latent_conditions=conditions,
        convolutions=convolutions,
        upsampling=upsampling,
        start_channels=2,
        start_hidden=start_hidden,
    ).eval()
    latents, encoded = inputs("classes", 4, 1)
    for index in range(LATENT):
        moved = latents.clone()
        moved[0, index] += 3.0
        with torch.no_grad():
            assert not torch.allclose(student(moved, encoded), student(latents, encoded), atol=1e-6)


def test_shortcut_and_interpolation_commute() -> None:
    block = UpBlock(6, 3, 2, "depthwise", "bilinear")
    x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block._up(block.shortcut(x)), block.shortcut(block._up(x)), atol=1e-6)


def test_conditional_norm_starts_near_the_unconditional_one() -> None:
    student = build()
    condition = torch.randn(50, student.blocks[0].norm1.gain.in_features, generator=torch.Generator().manual_seed(0))
    gain = 1 + student.blocks[0].norm1.gain(condition).detach().numpy()
    assert np.abs(gain - 1).max() < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution_px": 4}, "8 to 128 are possible"),
        ({"convolutions": "none"}, "use depthwise, full"),
        ({"upsampling": "cubic"}, "use bilinear, nearest"),
        ({"latent_conditions": "some"}, "use none, chunk, all"),
        ({"name": "biggest"}, "known are tinygan"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**arguments)


@pytest.mark.parametrize("size", [8, 13, 24, 28, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_student_of_any_size_is_the_middle_of_its_canvas(size: int, channels: int) -> None:
    canvas = canvas_for(size)
    assert canvas in (16, 32, 64)
    torch.manual_seed(0)
    small = TinyGan(size, channels, 6, "classes", 3, base_width=4, canvas_px=canvas).eval()
    whole = TinyGan(canvas, channels, 6, "classes", 3, base_width=4).eval()
    whole.load_state_dict(small.state_dict())
    latents, labels = torch.randn(2, 6), torch.tensor([0, 2])
    first = (canvas - size) // 2
    middle = whole(latents, labels)[..., first : first + size, first : first + size]
    assert small(latents, labels).shape == (2, channels, size, size)
    assert torch.equal(small(latents, labels), middle)


def test_sizes_that_no_student_has_name_the_remedy() -> None:
    assert canvas_for(28) == 32
    assert canvas_for(32) == 32
    for size in (7, 129, 256):
        with pytest.raises(UserError, match="sample the fakes with --image-size 128"):
            canvas_for(size)
    with pytest.raises(UserError, match="canvas_px 16"):
        TinyGan(28, 1, 6, "classes", 3, canvas_px=16)

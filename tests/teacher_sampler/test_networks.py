"""The contract of every teacher architecture, and of a teacher's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace, Teacher, TeacherCard
from layers.spectral_norm import fold_spectral
from runtime.errors import UserError
from runtime.seeds import label_bits
from teacher_sampler import TEACHERS, load_teacher
from tests.support.sealed_cards import reseal
from training.generator_folder import save_generator

SPACES: dict[str, LabelSpace] = {
    "classes": ClassLabels(("a", "b", "c")),
    "continuous": ContinuousLabels(-30.0, 30.0, "degrees"),
    "continuous vector": ContinuousLabels(0.0, 1.0, dimension=2),
}
CPU = torch.device("cpu")


def some_labels(space: LabelSpace, count: int) -> np.ndarray:
    if space.kind == "classes":
        return np.arange(count) % space.width
    values = np.linspace(0.0, 1.0, count * space.width).astype(np.float32).reshape(count, space.width)
    return space.decode(torch.from_numpy(values))


ALL = frozenset(SPACES)
CLASSES = frozenset({"classes"})
CONTINUOUS = frozenset({"continuous"})
SIZED = {"latent_dim": 17, "channels": 1}
ARCHITECTURES = {  # name -> (arguments beside the resolution, resolutions, kinds of labels, images within [-1, 1])
    "biggan": ({**SIZED, "width": 1, "label_dim": 6}, (16, 32, 64, 128), ALL, True),
    "biggan-deep": ({**SIZED, "width": 4, "label_dim": 6, "depth": 2}, (32, 64), ALL, True),
    "ccgan": ({**SIZED, "widths": [8, 4, 2], "embedding_dim": 16}, (16,), CONTINUOUS, True),
    "stylegan2-ada": (
        {**SIZED, "label_classes": 3, "w_dim": 8, "channel_base": 64, "channel_max": 8}, (8, 16, 32), CLASSES, False
    ),
}  # fmt: skip


def case(name: str) -> tuple:
    """An architecture that is not named above is one that can be trained: the contract holds with its own settings."""
    trained = (16,), ALL, True
    return ARCHITECTURES.get(name) or ({"channels": 1, **TEACHERS.choose(name).arguments()}, *trained)


def tiny_teacher(folder: Path, space: LabelSpace, name: str = "biggan", resolution_px: int = 16, **more: int) -> Path:
    arguments = {**case(name)[0], "resolution_px": resolution_px, **more}
    if name == "ccgan":
        del arguments["resolution_px"]  # follows from its widths
    torch.manual_seed(0)
    network = TEACHERS.get(name)(space, **arguments)
    card = TeacherCard(
        name,
        arguments,
        resolution_px,
        1,
        space.to_json(),
        {"distribution": "normal", "dimension": network.latent_dim},
        {},
        "",
        "",
        [],
    )
    save_generator(folder, card, network)
    return folder


def test_contract_of_every_teacher(tmp_path):
    ran = 0
    for name in TEACHERS:
        _, resolutions, kinds, bounded = case(name)
        for resolution_px in resolutions:
            for kind in sorted(kinds):
                space = SPACES[kind]
                folder = tiny_teacher(tmp_path / f"{name}{resolution_px}{kind}", space, name, resolution_px)
                teacher = load_teacher(folder, CPU)
                assert isinstance(teacher, Teacher)
                labels = some_labels(space, 4)
                keys = np.stack([label_bits(labels), np.arange(4)], axis=1)
                latents = teacher.latents(keys, seed=5)
                assert latents.shape == (4, teacher.network.latent_dim)
                assert torch.equal(teacher.latents(keys[2:], 5), latents[2:])
                assert not torch.equal(teacher.latents(keys, 6), latents)
                images = teacher.generate(latents, labels, keys, 0)
                assert images.shape == (4, 1, resolution_px, resolution_px)
                assert images.dtype == torch.float32
                assert torch.isfinite(images).all()
                assert not bounded or images.abs().max() <= 1
                assert images.std(dim=0).max() > 0
                alone = teacher.generate(latents[1:2], labels[1:2], keys[1:2], 0)
                torch.testing.assert_close(alone, images[1:2], rtol=1e-4, atol=1e-4)
                assert not teacher.network.training
                assert not any("parametrizations" in key for key in teacher.network.state_dict())
                assert {"blocks.0", "blocks.1"} <= {path for path, _ in teacher.network.named_modules()}
                ran += 1
    assert set(ARCHITECTURES) <= set(TEACHERS)
    assert ran == sum(len(resolutions) * len(kinds) for _, resolutions, kinds, _ in map(case, TEACHERS)) >= 22


@pytest.mark.parametrize("more", [{"hierarchical": False}, {"attention_px": 8}, {"spectral_normed": False}])
def test_options_of_the_network(tmp_path, more):
    space = SPACES["classes"]
    teacher = load_teacher(tiny_teacher(tmp_path / "t", space, **more), CPU)
    labels = some_labels(space, 3)
    keys = np.stack([labels, labels], axis=1)
    assert torch.isfinite(teacher.generate(teacher.latents(keys, 0), labels, keys, 0)).all()


def test_every_latent_number_reaches_the_image():
    network = TEACHERS.get("biggan")(SPACES["classes"], resolution_px=16, channels=1, width=4, latent_dim=17)
    latents = torch.randn(8, 17, requires_grad=True)
    network(latents, torch.zeros(8, dtype=torch.int64)).square().sum().backward()
    assert network.chunks == [6, 6, 5]
    assert (latents.grad.abs().sum(dim=0) > 0).all()


def test_folding_keeps_the_images_to_the_bit():
    network = TEACHERS.get("biggan")(
        SPACES["classes"], resolution_px=32, channels=3, width=2, latent_dim=20, attention_px=16
    )
    latents, classes = torch.randn(4, 20), torch.tensor([0, 1, 2, 0])
    network.train()(latents, classes)
    with torch.inference_mode():
        before = network.eval()(latents, classes)
        fold_spectral(network)
        assert torch.equal(network(latents, classes), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution_px": 24}, "resolution 24"),
        ({"resolution_px": 16, "latent_dim": 2}, "latent_dim 2"),
        ({"resolution_px": 16, "attention_px": 12}, "attention at 12"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        TEACHERS.get("biggan")(SPACES["classes"], channels=1, width=1, **arguments)


def _without_card(folder: Path) -> str:
    (folder / "card.json").unlink()
    return "card.json"


def _broken_card(folder: Path) -> str:
    (folder / "card.json").write_text('{"architecture": ')
    return "card.json"


def _changed(key: str, value: object) -> object:
    def change(folder: Path) -> str:
        reseal(folder / "card.json", {key: value})
        return "card.json"

    return change


def _without_weights(folder: Path) -> str:
    (folder / "weights.safetensors").unlink()
    return "weights.safetensors"


def _one_flipped_byte(folder: Path) -> str:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    return "weights.safetensors"


def _truncated(folder: Path) -> str:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    return "weights.safetensors"


def _other_width(folder: Path) -> str:
    card = json.loads((folder / "card.json").read_text())
    reseal(folder / "card.json", {"arguments": {**card["arguments"], "width": 2}})
    return "weights.safetensors"


@pytest.mark.parametrize(
    "harm",
    [
        _without_card,
        _broken_card,
        _changed("architecture", "stylegan9"),
        _changed("arguments", {"resolution_px": 16, "channels": 1, "colour": 3}),
        _changed("arguments", "none"),
        _changed("label_space", {"kind": "moods"}),
        _changed("latent", {}),
        _changed("latent", {"distribution": "normal", "dimension": 9}),
        _changed("format_version", 2),
        _without_weights,
        _one_flipped_byte,
        _truncated,
        _other_width,
    ],
)
def test_bad_folders_are_refused_by_file_name(tmp_path, harm):
    folder = tiny_teacher(tmp_path / "teacher", SPACES["classes"])
    file = harm(folder)
    with pytest.raises(UserError, match=file) as caught:
        load_teacher(folder, CPU)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        load_teacher(tmp_path / "nothing-here", CPU)

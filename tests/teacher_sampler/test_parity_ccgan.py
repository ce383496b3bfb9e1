"""CcGAN checkpoints against what the original programs made of them (fixtures: see tests/support/parity_folder.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interfaces import TeacherCard
from runtime.seeds import label_bits
from teacher_sampler import load_teacher
from teacher_sampler.importers.ccgan_labels import read_label_embedding
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest
from tests.support.parity_folder import expected_of, inputs_of, parity
from training.generator_folder import save_generator

LOW, HIGH = -88.13, 97.92
FIXTURES = [("ccgan_sngan", "ccgan-sngan"), ("ccgan_sagan", "ccgan-sagan"), ("ccgan_sngan_nli", "ccgan-sngan")]


def imported(folder: Path, arch: str, checkpoint: str = "ckpt_CcGAN.pth") -> ImportedTeacher:
    embedding = folder / "ckpt_net_y2h.pth"
    request = ImportRequest(
        str(folder / checkpoint),
        label_embedding=embedding if embedding.exists() else None,
        label_range=(LOW, HIGH),
        label_unit="degrees",
    )
    return IMPORTERS.get(arch)(request)


@pytest.mark.parametrize(("name", "arch"), FIXTURES)
@pytest.mark.parametrize("checkpoint", ["ckpt_CcGAN.pth", "weights.safetensors"])
def test_parity_of_the_images(name, arch, checkpoint):
    folder = parity(name)
    inputs, expected = inputs_of(folder), expected_of(folder)
    network = imported(folder, arch, checkpoint).network
    with torch.inference_mode():
        images = network(inputs["z"], inputs["y"])
        alone = network(inputs["z"][2:3], inputs["y"][2:3])
    torch.testing.assert_close(images, expected["images"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, expected["images"][2:3], rtol=1e-4, atol=1e-4)
    if "h" in expected:
        torch.testing.assert_close(network.embedding(inputs["y"]), expected["h"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "arch"), FIXTURES)
def test_parity_through_a_teacher_folder_with_labels_in_units(tmp_path, name, arch):
    folder = parity(name)
    inputs, expected = inputs_of(folder), expected_of(folder)
    teacher = imported(folder, arch)
    assert (teacher.resolution_px, teacher.channels) == (64, 3)
    assert teacher.latent == {"distribution": "normal", "dimension": 24}
    card = TeacherCard(
        teacher.architecture, dict(teacher.arguments), teacher.resolution_px, teacher.channels,
        teacher.label_space.to_json(), dict(teacher.latent), {}, "", "unknown", [],
    )  # fmt: skip
    save_generator(tmp_path / "teacher", card, teacher.network)
    loaded = load_teacher(tmp_path / "teacher", torch.device("cpu"))
    labels = LOW + inputs["y"][:, 0].double().numpy() * (HIGH - LOW)
    keys = np.stack([label_bits(labels), np.arange(len(labels))], axis=1)
    images = loaded.generate(inputs["z"], labels, keys, 0)
    torch.testing.assert_close(images, expected["images"], rtol=1e-4, atol=1e-4)
    assert loaded.latents(keys, 3).shape == inputs["z"].shape


@pytest.mark.parametrize(
    ("name", "layers", "final_relu"),
    [("y2h_5layer", 5, True), ("y2h_5layer_norelu", 5, False), ("y2h_7layer", 7, True)],
)
def test_parity_of_the_label_embeddings(tmp_path, name, layers, final_relu):
    folder = parity("ccgan_embed")
    prefix = f"{name}."
    weights = load_file(folder / "weights.safetensors")
    file = tmp_path / "y2h.safetensors"
    save_file({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, file)
    network = read_label_embedding(file, final_relu)
    assert network.layers == layers
    y, expected = inputs_of(folder)["y"], expected_of(folder)[name]
    torch.testing.assert_close(network(y), expected, rtol=1e-5, atol=1e-5)
    if name == "y2h_5layer":
        checkpoint = read_label_embedding(folder / "ckpt_net_y2h.pth", final_relu)
        torch.testing.assert_close(checkpoint(y), expected, rtol=1e-5, atol=1e-5)
    else:
        assert not torch.allclose(read_label_embedding(file, not final_relu)(y), expected, atol=1e-3)

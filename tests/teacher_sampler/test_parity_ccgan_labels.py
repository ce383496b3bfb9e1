"""CcGAN's image-to-label network against what the original program made of it (see tests/support/parity_folder.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cli
from teacher_sampler.importers.ccgan_labels import read_label_embedding, read_label_network
from tests.support.parity_folder import expected_of, inputs_of, parity


def weights_of(folder: Path, network: str, file: Path) -> Path:
    """One of the fixture's networks in a file of its own."""
    weights = load_file(folder / "weights.safetensors")
    prefix = f"{network}."
    save_file({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, file)
    return file


@pytest.mark.parametrize("form", ["checkpoint", "weights"])
def test_parity_of_features_and_labels_of_images(tmp_path, form):
    folder = parity("ccgan_embed")
    checkpoint = folder / "ckpt_embed_x2y.pth"
    file = checkpoint if form == "checkpoint" else weights_of(folder, "x2y", tmp_path / "x2y.safetensors")
    network = read_label_network(file)
    inputs, expected = inputs_of(folder), expected_of(folder)
    with torch.inference_mode():
        features, labels = network(inputs["x"])
        alone = network(inputs["x"][1:2])[1]
        of_features = network.to_label(inputs["h2y_in"])
    torch.testing.assert_close(features, expected["x2y_features"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(labels, expected["x2y_out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, expected["x2y_out"][1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_features, expected["h2y_out"], rtol=1e-4, atol=1e-5)


def test_parity_of_a_label_through_both_networks(tmp_path):
    folder = parity("ccgan_embed")
    network = read_label_network(folder / "ckpt_embed_x2y.pth")
    file = weights_of(folder, "y2h_5layer_norelu", tmp_path / "y2h.safetensors")
    y, expected = inputs_of(folder)["y"], expected_of(folder)["h2y_of_y2h_5layer_norelu"]
    with torch.inference_mode():
        there_and_back = network.to_label(read_label_embedding(file, final_relu=False)(y))
        other = network.to_label(read_label_embedding(file, final_relu=True)(y))
    torch.testing.assert_close(there_and_back, expected, rtol=1e-4, atol=1e-5)
    assert (other - expected).abs().max() > 0.01


def test_parity_networks_of_two_training_runs_are_refused(tmp_path, capsys):
    folder, labels = parity("ccgan_sngan"), parity("ccgan_embed")
    asked = (
        f"import-teacher --arch ccgan-sngan --checkpoint {folder}/ckpt_CcGAN.pth --label-range 0:90 "
        f"--label-network {labels}/ckpt_embed_x2y.pth --out {tmp_path / 'teacher'}"
    )
    for embedding, why in (
        (folder / "ckpt_net_y2h.pth", "of the range away"),
        (labels / "ckpt_net_y2h.pth", "128 features and the other 32"),
    ):
        capsys.readouterr()
        assert cli.main([*asked.split(), "--label-embedding", str(embedding)]) == 2
        error = capsys.readouterr().err
        assert "is not the right inverse of" in error
        assert "give the two files of one training run" in error
        assert why in " ".join(error.split())
    assert not (tmp_path / "teacher").exists()

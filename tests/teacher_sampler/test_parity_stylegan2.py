"""StyleGAN2-ADA against the original program: tensors of its snapshots, w, and images."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import UserError
from runtime.safe_files.snapshot_pickle import read_snapshot
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import import_stylegan2_ada
from tests.support.parity_folder import expected_of, inputs_of, parity

SNAPSHOT = "network-snapshot-000200.pkl"
FOLDERS = ("stylegan2ada_cifar_cond", "stylegan2ada_64_uncond")
CUTOFFS = {"stylegan2ada_cifar_cond": 3, "stylegan2ada_64_uncond": 5}
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
BIRDS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def settings_of(key: str, folder: Path) -> dict[str, object]:
    """psi, cutoff and noise mode out of the name of an expected output."""
    cutoff = CUTOFFS[folder.name]
    assert ("cutoff" in key) == (f"cutoff{cutoff}" in key)
    return {
        "truncation": 0.7 if "psi0p7" in key else 1.0,
        "truncation_cutoff": cutoff if "cutoff" in key else None,
        "noise_mode": "none" if key.endswith("_none") else "const",
    }


def run(folder: Path, key: str) -> torch.Tensor:
    """The same output from our own importer and network."""
    network = import_stylegan2_ada(ImportRequest(str(folder / SNAPSHOT), **settings_of(key, folder))).network
    inputs = inputs_of(folder)
    classes = inputs.get("y", torch.zeros(len(inputs["z"]), dtype=torch.int64))
    with torch.inference_mode():
        if key.startswith("ws_"):
            return network.mapping(inputs["z"], classes)
        return network(inputs["z"], classes)


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_of_w_and_images(name):
    folder = parity(name)
    ran = 0
    for key, expected in expected_of(folder).items():
        tolerance = {"atol": 1e-5, "rtol": 1e-5} if key.startswith("ws_") else TOLERANCE
        if key.endswith("native_precision"):  # the original ran in float16 there
            tolerance = {"atol": 1e-2, "rtol": 1e-2}
        torch.testing.assert_close(run(folder, key), expected, **tolerance, msg=lambda text, key=key: f"{key}: {text}")
        ran += 1
    assert ran == {"stylegan2ada_cifar_cond": 9, "stylegan2ada_64_uncond": 8}[name]


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_of_the_snapshots_tensors(name):
    folder = parity(name)
    snapshot = read_snapshot(folder / SNAPSHOT)
    expected = load_file(folder / "weights.safetensors")
    found = snapshot.tensors(snapshot.module("G_ema", "Generator"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    # G lies beside it, with other parameters and the same buffers.
    raw = snapshot.tensors(snapshot.module("G", "Generator"))
    assert raw.keys() == expected.keys()
    assert not torch.equal(raw["synthesis.b4.const"], expected["synthesis.b4.const"])
    assert torch.equal(raw["mapping.w_avg"], expected["mapping.w_avg"])


def test_parity_of_what_the_card_says():
    folder = parity("stylegan2ada_cifar_cond")
    request = ImportRequest(str(folder / SNAPSHOT), class_names=BIRDS, truncation=0.7, truncation_cutoff=3)
    imported = import_stylegan2_ada(request)
    assert imported.label_space.to_json() == {"kind": "classes", "names": list(BIRDS)}
    assert imported.latent == {"distribution": "normal", "dimension": 64}
    assert imported.truncation == {"psi": 0.7, "cutoff": 3}
    assert (imported.resolution_px, imported.channels) == (32, 3)
    assert imported.arguments["conv_clamp"] == 256
    assert imported.arguments["mapping_layers"] == 2
    assert imported.arguments["noise_mode"] == "const"
    assert imported.notes["training_set"]["max_size"] == 50000
    assert "cifar10.zip" not in str(imported.notes)  # no path of another machine
    unconditional = import_stylegan2_ada(ImportRequest(str(parity("stylegan2ada_64_uncond") / SNAPSHOT)))
    assert unconditional.label_space.to_json() == {"kind": "classes", "names": ["all"]}
    assert unconditional.arguments["mapping_width"] == 40
    assert unconditional.truncation == {}


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_snapshot_survives_damage(name, tmp_path):
    """Flipped bits, cuts and splices in a real snapshot: a UserError or a teacher, nothing else."""
    original = (parity(name) / SNAPSHOT).read_bytes()
    rng = random.Random(0)
    path = tmp_path / SNAPSHOT
    messages = []
    for _ in range(25):
        data = bytearray(original)
        for _ in range(rng.choice((1, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            import_stylegan2_ada(ImportRequest(str(path)))
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert all(SNAPSHOT in message and "\n" not in message for message in messages)

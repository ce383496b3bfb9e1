"""State dicts of known networks: whoever named the layers, whatever wrapped them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from classifiers import load_classifier
from classifiers.foreign.known_networks import known_network
from classifiers.foreign.networks import ForeignNetwork
from tests.commands.test_predictor_import import CPU, random_images, typed
from tests.support.plain_cifar import PlainResNet

PARITY = Path(os.environ.get("RETORT_PARITY_KD_DIR", Path(__file__).resolve().parents[3] / "shared" / "parity_kd"))


@pytest.mark.parametrize("side", [32, 64])
def test_a_cifar_resnet_in_the_names_of_other_trainers(
    side: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    network = PlainResNet().train()
    for _ in range(3):
        network(torch.randn(8, 3, 16, 16))
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}},
               tmp_path / "best.pth")  # fmt: skip
    words = ["--arch", "resnet8", "--checkpoint", tmp_path / "best.pth", "--normalise", "cifar10"]
    assert typed(capsys, *words, "--resolution", side, "--channels", 3, "--out", tmp_path / "p")[0] == 0
    images = random_images(4, 3, side)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    with torch.no_grad():
        wanted = network.eval()((images / 255 - mean) / std)
    found = load_classifier(tmp_path / "p", CPU)
    assert isinstance(found.network, ForeignNetwork)
    torch.testing.assert_close(found(images), wanted, atol=1e-4, rtol=1e-4)


def test_of_several_networks_the_averaged_one_is_taken_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stored = {f"module._orig_mod.net.{name}": value for name, value in PlainResNet().state_dict().items()}
    other = {name: value * 0.5 if value.is_floating_point() else value for name, value in stored.items()}
    words = ["--arch", "resnet8", "--checkpoint", tmp_path / "c.pth", "--normalise", "half", "--resolution", 32]
    digests = []
    for held, more, said in (
        (stored, [], ""),
        ({"model": other, "teacher_ema": stored}, [], "teacher_ema.net is taken, not model.net"),
        ({"model": other, "swa": stored}, ["--entry", "model"], "model.net is taken, not swa.net"),
    ):
        torch.save(held, tmp_path / "c.pth")
        out = tmp_path / str(len(digests))
        code, found, error = typed(capsys, *words, "--channels", 3, "--out", out, *more)
        assert code == 0, error
        assert said in error
        digests.append(found["digest"])
    assert digests[0] == digests[1] != digests[2]
    assert json.loads((tmp_path / "1" / "card.json").read_text())["entry"] == "teacher_ema.net"
    torch.save({"one": stored, "two": other}, tmp_path / "c.pth")
    code, _, error = typed(capsys, *words, "--channels", 3, "--out", tmp_path / "o")
    assert code == 2
    assert "several classifiers" in error
    assert "choose one with --entry one" in error


def _filled(described: dict) -> dict[str, torch.Tensor]:
    """The weights of a parity network, which follow a formula of entry and index in 32-bit arithmetic."""
    found = {}
    for place, (name, shape, _) in enumerate(described["state_dict"]):
        index = np.arange(max(1, math.prod(shape)), dtype=np.uint32)
        with np.errstate(over="ignore"):
            h = index * np.uint32(0x9E3779B1) + np.uint32(place) * np.uint32(0x85EBCA77) + np.uint32(1)
            h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
            h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        u = ((h ^ (h >> np.uint32(16))) + 0.5) / 2**32
        if len(shape) > 1:
            value = (2 * u - 1) * math.sqrt(3 * described["fill"]["w_gain"] / math.prod(shape[1:]))
        elif name.endswith("running_mean"):
            value = 0.4 * (u - 0.5)
        elif name.endswith("running_var"):
            value = 0.5 + u
        elif name.endswith("bias"):
            value = 0.3 * (u - 0.5)
        else:
            value = described["fill"]["bn_gain"] * (0.75 + 0.5 * u) if shape else 0 * u
        found[name] = torch.tensor(value.astype(np.float32).reshape(shape))
    return found


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vgg8"])
def test_networks_of_the_original_trainers_answer_as_there(name: str) -> None:
    folder = PARITY / "networks"
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures at {PARITY}; set RETORT_PARITY_KD_DIR")
    tensors = _filled(json.loads((folder / name / "config.json").read_text()))
    _, core = known_network(
        name, tensors, folder / name, width=None, channels=3, resolution_px=32, continuous=False
    )  # fmt: skip
    with torch.no_grad():
        found = core(load_file(folder / "inputs.safetensors")["x32"])
    wanted = load_file(folder / name / "expected.safetensors")["output"]
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)

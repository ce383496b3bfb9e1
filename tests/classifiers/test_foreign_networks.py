"""State dicts of known networks: whoever named the layers, whatever wrapped them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from classifiers import load_classifier
from classifiers.foreign.networks import ForeignNetwork
from tests.commands.test_predictor_import import CPU, random_images, typed
from tests.support.plain_cifar import PlainResNet


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

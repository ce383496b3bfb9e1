"""docs/predictors.md: every command of the guide is typed, in its order, on small files of the kinds that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

import cli
from classifiers.foreign.normalisation import NORMALISATIONS
from image_data.fake import open_fakes
from image_data.labels import ClassLabels
from tests.support.plain_cifar import PlainResNet
from tests.support.program_models import export_pt2, onnx_model, tiny_network

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "predictors.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL) for line in block.splitlines()]
NAMES = ("cat", "dog", "ship")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the guide's user has at hand, in small."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    weights = {"axes": np.array([2, 3]), "W": np.random.default_rng(0).normal(0, 1, (3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "W"], ["images"]),
    ]
    slots = [("x", TensorProto.FLOAT, ["N", 3, 16, 16])]
    onnx_model(tmp_path / "clf.onnx", nodes, slots, (TensorProto.FLOAT, ["N", 3]), weights)
    pooled = [nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    pixels = (torch.rand(2, 3, 16, 16),)
    export_pt2(nn.Sequential(*pooled, nn.Linear(4, 3), nn.Softmax(dim=1)), pixels, tmp_path / "clf.pt2")
    export_pt2(nn.Sequential(*pooled, nn.Linear(4, 1)), pixels, tmp_path / "angle.pt2")
    network = PlainResNet(blocks=3, width=4, classes=3)
    torch.save({"epoch": 9, "model": {f"module.{k}": v for k, v in network.state_dict().items()}}, "best.pth")
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), "resnet18.pth")
    (tmp_path / "map.yaml").write_text("classes:\n  machine: [2]\n  animal: [0, 1]\n")
    tiny_network(tmp_path / "teacher", ClassLabels(NAMES))
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels_of = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels_of).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path


def test_every_command_of_the_guide_works(files: Path, capsys: pytest.CaptureFixture) -> None:
    for line in LINES:
        words = shlex.split(line)
        assert words[:2] == ["python", "cli.py"], line
        words = words[2:]
        if "--nfake-per-class" in words:
            words[words.index("--nfake-per-class") + 1] = "2"
        capsys.readouterr()
        assert cli.main(words) == 0, (line, capsys.readouterr().err)
    assert len(LINES) == 9
    assert len(open_fakes(files / "fakes").score_sets()) == 2


def test_every_normalisation_stands_in_the_guide() -> None:
    assert set(re.findall(r"^\| `([a-z][a-z0-9.-]+)` \|", GUIDE, flags=re.MULTILINE)) == set(NORMALISATIONS)

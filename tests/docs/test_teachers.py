"""docs/teachers.md: every command of the guide is typed, in its order, on small files of the kinds that it names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from benchmarks.plain_biggan import PlainBigGAN, PlainBigGANDeep, randomise
from benchmarks.plain_ccgan import PlainLabelEmbedding, PlainSAGAN, PlainSNGAN
from image_data.fake import open_fakes
from image_data.labels import ClassLabels
from tests.support.program_models import example_inputs, export_onnx, export_pt2, tiny_network
from tests.support.stylegan2_snapshots import random_plain, write_snapshot
from tests.support.teacher_service import ServingProcess

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "teachers.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the guide's user has at hand, in small."""
    monkeypatch.chdir(tmp_path)
    torch.save(randomise(PlainBigGAN(32, 2, 16, 3), 1).state_dict(), "G_ema.pth")
    torch.save(randomise(PlainBigGANDeep(32, 2, 6, 3, 5), 2).state_dict(), "deep_G_ema.pth")
    write_snapshot(tmp_path / "network-snapshot-000200.pkl", random_plain())
    torch.manual_seed(0)
    for name, network in (
        ("CcGAN.pth", PlainSNGAN(8, 3, 2, 16)),
        ("SAGAN.pth", PlainSAGAN(8, 3, 4, 16)),
        ("net_y2h.pth", PlainLabelEmbedding(16)),
    ):
        entry = "net_state_dict" if name == "net_y2h.pth" else "netG_state_dict"
        tensors = {f"module.{key}": value for key, value in network.state_dict().items()}
        torch.save({entry: tensors}, name)
    network = tiny_network(tmp_path / "tiny", ClassLabels(("cat", "dog", "ship")))
    export_onnx(network.network, example_inputs(network, 4), tmp_path / "generator.onnx")
    export_pt2(network.network, example_inputs(network, 4), tmp_path / "generator.pt2")
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{index}.png")
    mapping = re.search(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert mapping
    (tmp_path / "map.yaml").write_text(mapping.group(1))
    return tmp_path


def test_every_command_of_the_guide_works(files: Path, capsys: pytest.CaptureFixture) -> None:
    address, service, typed = "", None, 0
    try:
        for line in LINES:
            words = line.split()
            assert words[:2] == ["python", "cli.py"], line
            if words[2] == "serve-teacher":
                service = ServingProcess(files / "style")
                address = service.address
                continue
            words = [word.replace("http://127.0.0.1:8765", address) for word in words[2:]]
            if "--nfake-per-class" in words and "picked" not in words:
                words[words.index("--nfake-per-class") + 1] = "4"
            capsys.readouterr()
            assert cli.main(words) == 0, (line, capsys.readouterr().err)
            typed += 1
    finally:
        if service is not None:
            service.kill()
    assert typed == len(LINES) - 1 == 17
    local, remote = open_fakes(files / "style-fakes"), open_fakes(files / "remote-fakes")
    assert local.digest == remote.digest
    mapped = open_fakes(files / "mapped")
    assert mapped.label_space == ClassLabels(("machine", "animal"))
    assert mapped.image_shape == (1, 24, 24)
    assert open_fakes(files / "picked").has_latents is False


def test_every_kind_of_teacher_stands_in_the_guide() -> None:
    from teacher_sampler.importers import IMPORTERS

    shown = set(re.findall(r"--arch (\S+)", GUIDE)) | {"http"}  # a service needs no import
    assert shown == set(IMPORTERS)

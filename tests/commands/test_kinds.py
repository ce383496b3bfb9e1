"""fit-filter, sample, train-student, distill and search-rho with every kind of teacher; CcGAN over unseen labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import cli
from benchmarks.plain_biggan import PlainBigGAN, PlainBigGANDeep, randomise
from benchmarks.plain_ccgan import PlainLabelEmbedding, PlainSNGAN
from image_data.fake import open_fakes
from teacher_sampler import load_teacher
from tests.conftest import TINY
from tests.support.program_models import example_inputs, export_onnx, export_pt2
from tests.support.stylegan2_snapshots import random_plain, write_snapshot
from tests.support.teacher_service import ServingProcess
from training.generator_folder import NetworkGenerator

SEEN_AS = "--image-size 16 --image-channels 1"
SMALL = "--nfake-per-class 20 --rho 0.5 --block-size 32 --pilot-candidates 64"


def typed(capsys: pytest.CaptureFixture, command: str, text: str, tiny: bool = True) -> dict:
    capsys.readouterr()
    code = cli.main([command, *(TINY.get(command, "").split() if tiny else []), *text.split(), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def foreign_file(kind: str, folder: Path, trained: NetworkGenerator) -> str:
    """The checkpoint of a tiny teacher of ten classes, and the flags that import it."""
    if kind == "biggan":
        torch.save(randomise(PlainBigGAN(32, 2, 16, 10), 1).state_dict(), folder / "G_ema.pth")
        return f"--checkpoint {folder / 'G_ema.pth'}"
    if kind == "biggan-deep":
        torch.save(randomise(PlainBigGANDeep(32, 2, 6, 10, 5), 1).state_dict(), folder / "G_ema.pth")
        return f"--checkpoint {folder / 'G_ema.pth'}"
    if kind == "stylegan2-ada":
        file = write_snapshot(folder / "snapshot.pkl", random_plain(c_dim=10), c_dim=10)
        return f"--checkpoint {file} --noise-mode random"
    inputs = example_inputs(trained, 4)
    names = "--class-names 0,1,2,3,4,5,6,7,8,9"
    if kind == "onnx":
        return f"--checkpoint {export_onnx(trained.network, inputs, folder / 'g.onnx')} {names}"
    if kind == "torch-export":
        program = trained.network.to(memory_format=torch.contiguous_format)
        return f"--checkpoint {export_pt2(program, inputs, folder / 'g.pt2')} {names}"
    if kind == "images":
        rng = np.random.default_rng(0)
        with h5py.File(folder / "ready.h5", "w") as file:
            file["fake_images"] = rng.integers(0, 256, size=(1200, 1, 16, 16), dtype=np.uint8)
            file["fake_labels"] = np.repeat(np.arange(10), 120)
        return f"--checkpoint {folder / 'ready.h5'}"
    raise ValueError(kind)


@pytest.fixture
def imported(tmp_path: Path, workspace, capsys: pytest.CaptureFixture) -> Iterator[Callable[[str], str]]:
    """kind -> the reference of a teacher of that kind."""
    services: list[ServingProcess] = []

    def make(kind: str) -> str:
        first = (workspace.folder / "teacher" / "latest").resolve()
        if kind == "http":
            services.append(ServingProcess(first))
            return services[0].address
        trained = load_teacher(first, torch.device("cpu"))
        assert isinstance(trained, NetworkGenerator)
        flags = foreign_file(kind, tmp_path, trained)
        typed(capsys, "import-teacher", f"--arch {kind} {flags} --out {tmp_path / 'teacher'}")
        return str(tmp_path / "teacher")

    yield make
    for service in services:
        service.kill()


KINDS = ["biggan", "biggan-deep", "stylegan2-ada", "onnx", "torch-export", "images", "http"]
LONGER = (
    "images",
    "biggan",
    "biggan-deep",
    "http",
    "stylegan2-ada",
    "torch-export",
)  # their loaders have tests of their own


@pytest.mark.xdist_group("workspace")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LONGER)) for k in KINDS])
def test_the_whole_path_with_every_kind(
    kind: str, imported, workspace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = imported(kind)
    own = tmp_path / "w"
    shared = f"--workspace {own}"
    seen = SEEN_AS if kind in ("biggan", "biggan-deep", "stylegan2-ada") else ""
    predictor = workspace.folder / "predictor" / "latest"
    typed(capsys, "fit-filter", f"{shared} --teacher {teacher} {seen}")
    made = typed(capsys, "sample", f"{shared} --teacher {teacher} {seen} --predictor {predictor} {SMALL}")
    assert made["images"] == 400
    assert made["latents"] is (kind != "images")
    fakes = open_fakes(own / "fakes" / "latest")
    assert fakes.image_shape == (1, 16, 16)
    assert fakes.manifest.content["has_ratio"] is True
    words = f"{shared} --rho 0.5 --nfake-per-class 10"
    assert typed(capsys, "distill", f"{words} --train-on fakes")["protocol"]["images"] == 100
    assert typed(capsys, "search-rho", f"{shared} --nfake-per-class 10")["rho"] in (0.5, 1.0)
    capsys.readouterr()
    code = cli.main(["train-student", *TINY["train-student"].split(), *shared.split()])
    error = capsys.readouterr().err
    assert (code, "no latents" in error) == ((2, True) if kind == "images" else (0, False)), error


def test_a_ccgan_over_labels_that_nobody_saw(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    tensors = {f"module.{name}": value for name, value in PlainSNGAN(8, 3, 2, 16).state_dict().items()}
    torch.save({"netG_state_dict": tensors}, tmp_path / "g.pth")
    torch.save({"net_state_dict": PlainLabelEmbedding(16).state_dict()}, tmp_path / "y2h.pth")
    files = f"--checkpoint {tmp_path / 'g.pth'} --label-embedding {tmp_path / 'y2h.pth'}"
    teacher, fakes, predictor = tmp_path / "t", tmp_path / "f", tmp_path / "p"
    units = "--label-range=-60:60 --label-unit degrees"
    typed(capsys, "import-teacher", f"--arch ccgan-sngan {files} {units} --out {teacher}")
    asked = "--nfake-per-label 3 --labels=-59.3:58.1:17 --filter none --predictor none"
    made = typed(capsys, "sample", f"--teacher {teacher} {SEEN_AS} {asked} --out {fakes}", tiny=False)
    assert made["images"] == 51
    typed(capsys, "train-classifier", f"--data rotated-digits --real-per-class 10 --out {predictor}")
    assert len(typed(capsys, "score", f"{fakes} --predictor {predictor}")["scores"]) == 1
    scores = open_fakes(fakes).scores()
    assert np.allclose(scores.error, np.abs(scores.output - open_fakes(fakes).labels), atol=1e-3)
    typed(capsys, "export-h5", f"--fakes {fakes} --out {tmp_path / 'f.h5'}")
    with h5py.File(tmp_path / "f.h5") as file:
        labels = np.asarray(file["fake_labels"])
    assert labels.dtype == np.float64
    assert np.allclose(np.unique(labels), np.linspace(-59.3, 58.1, 17))

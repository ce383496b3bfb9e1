"""import-predictor: a classifier of another program answers as at home, and works wherever a predictor does."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

import cli
from classifiers import load_classifier
from commands.support.builders import predictor_factory
from commands.support.workspace import artefact_digest
from runtime.errors import UserError
from tests.support.program_models import export_pt2, onnx_model

pytestmark = pytest.mark.xdist_group("workspace")
CPU = torch.device("cpu")
SIDE = 16


class Core(nn.Module):
    """A native predictor's network without its normalisation: what another program would export."""

    def __init__(self, native: Any, ending: Callable[[torch.Tensor], torch.Tensor] = lambda found: found) -> None:
        super().__init__()
        self.backbone, self.head, self.ending = native.network.backbone, native.network.head, ending

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.ending(self.head(self.backbone(pixels)))


@pytest.fixture(scope="module")
def files(workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's predictor as others would hand it over."""
    folder = tmp_path_factory.mktemp("foreign")
    native = load_classifier(workspace.folder / "predictor" / "latest", CPU)
    pixels = torch.randn(4, 1, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Core(native).eval(), (pixels,), folder / "clf.onnx", dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )  # fmt: skip
    export_pt2(Core(native, lambda found: found.softmax(dim=1)), (pixels,), folder / "probabilities.pt2")
    export_pt2(Core(native), (pixels,), folder / "fixed.pt2", batch=None)
    tensors = native.network.state_dict()
    nasty = {f"module._orig_mod.net.{name}": value for name, value in tensors.items()}
    torch.save({"epoch": 3, "model": nasty}, folder / "nasty.pth")
    save_file({f"_orig_mod.module.{name}": value.contiguous() for name, value in tensors.items()},
              folder / "nasty.safetensors")  # fmt: skip
    return folder


def typed(capsys: pytest.CaptureFixture, *words: Any) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = cli.main(["import-predictor", *map(str, words), "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out.strip() else {}, shown.err


def random_images(count: int, channels: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)


SIZE = "--resolution 16 --channels 1"
STATE = f"--arch resnet8 {SIZE}"
SOURCES = [
    ("clf.onnx", "--arch onnx"),
    ("probabilities.pt2", "--arch torch-export --output probabilities"),
    ("fixed.pt2", "--arch torch-export"),
    ("nasty.pth", STATE),
    ("nasty.safetensors", f"{STATE} --network-width 0.5"),
]


@pytest.mark.parametrize(("file", "flags"), SOURCES, ids=[file for file, _ in SOURCES])
def test_it_answers_as_the_native_predictor(
    file: str, flags: str, files: Path, workspace: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "p"
    words = [*flags.split(), "--checkpoint", files / file, "--normalise", "half", "--data", "digits", "--out", out]
    code, found, error = typed(capsys, *words)
    assert code == 0, error
    native, imported = (load_classifier(folder, CPU) for folder in (workspace.folder / "predictor" / "latest", out))
    images = random_images(9)
    wanted, given = native(images), imported(images)
    if "probabilities" in flags:
        wanted, given = wanted.log_softmax(dim=1), given.log_softmax(dim=1)
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=0)
    theirs, mine = native.card["result"], imported.card["result"]
    assert mine["val_score"] == pytest.approx(theirs["val_score"], abs=1e-9)
    assert mine["val_cross_entropy"] == pytest.approx(theirs["val_cross_entropy"], abs=1e-4)
    assert found["seen"] == "unknown"
    assert imported.card["foreign"] is True
    assert imported.card["trained_on"]["imported"] == {"checkpoint": file}
    assert typed(capsys, *words)[0] == 0  # finished: it says so
    assert typed(capsys, *words, "--seed", 1)[0] == 2


def test_it_works_wherever_a_predictor_does(
    files: Path, workspace: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "p"
    names = "--class-names 0,1,2,3,4,5,6,7,8,9"
    code, _, error = typed(
        capsys,
        "--arch",
        "onnx",
        "--checkpoint",
        files / "clf.onnx",
        "--normalise",
        "half",
        *names.split(),
        "--out",
        out,
    )
    assert code == 0, error
    sampled = tmp_path / "f"
    made = workspace.json(capsys, "sample", f"--predictor {out} --out {sampled} --nfake-per-class 5")
    assert list(made["scores"]) == [artefact_digest("predictor", out)]
    native = workspace.folder / "predictor" / "latest"
    assert len(workspace.json(capsys, "score", f"{sampled} --predictor {native}", tiny=False)["scores"]) == 2
    columns = []
    for digest in (artefact_digest("predictor", out), artefact_digest("predictor", native)):
        errors = []
        for path in sorted((sampled / "scores" / digest).glob("*.h5")):
            with h5py.File(path) as file:
                errors.append(file["error"][:])
        columns.append(np.concatenate(errors))
    np.testing.assert_allclose(columns[0], columns[1], atol=1e-3)
    factory = pickle.loads(pickle.dumps(predictor_factory(out, "cpu")))  # as worker processes get it
    assert factory()(random_images(2)).shape == (2, 10)
    taught = workspace.json(capsys, "distill", f"--method blkd --predictor {out} --fakes {sampled} --rho 0.5")
    assert taught["protocol"]["method"] == "blkd"
    searched = workspace.json(capsys, "search-rho", f"--method blkd --predictor {out} --fakes {sampled} --rhos 0.5")
    assert {line["rho"] for line in searched["choice"]["lines"]} == {0.5, 1.0}
    assert workspace.type("verify", str(sampled), tiny=False) == 0
    assert workspace.type("distill", f"--init-from {out} --method none --train-on real") == 2
    assert "imported" in capsys.readouterr().err


def test_the_normalisation_and_the_names_are_part_of_its_identity(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    begin = ["--arch", "torch-export", "--checkpoint", files / "fixed.pt2", "--output", "logits"]
    kinds = {
        "half": ["--normalise", "half"],
        "stated": ["--normalise", "0.5;0.5"],
        "none": ["--normalise", "none"],
        "named": ["--normalise", "half", "--class-names", "a,b,c,d,e,f,g,h,i,j"],
    }
    for name, flags in kinds.items():
        assert typed(capsys, *begin, *flags, "--out", tmp_path / name)[0] == 0
    assert len({artefact_digest("predictor", tmp_path / name) for name in kinds}) == 4
    images = random_images(3)
    half, stated, none = (load_classifier(tmp_path / name, CPU)(images) for name in ("half", "stated", "none"))
    torch.testing.assert_close(half, stated, atol=0, rtol=0)
    assert float((half - none).abs().max()) > 1e-2


def test_a_label_map_merges_and_orders_classes(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "map.yaml").write_text("classes: {late: [9, 8], first: [0]}\n")
    begin = ["--arch", "torch-export", "--checkpoint", files / "fixed.pt2", "--normalise", "half"]
    assert typed(capsys, *begin, "--out", tmp_path / "all")[0] == 0
    assert typed(capsys, *begin, "--label-map", tmp_path / "map.yaml", "--out", tmp_path / "two")[0] == 0
    whole, two = (load_classifier(tmp_path / name, CPU) for name in ("all", "two"))
    assert two.card["label_space"]["names"] == ["late", "first"]
    images = random_images(3)
    logits = whole(images)
    wanted = torch.stack([logits[:, [9, 8]].logsumexp(dim=1), logits[:, 0]], dim=1)
    torch.testing.assert_close(two(images), wanted)


class Mean(nn.Module):
    """A small regressor or classifier whose every output can be worked out."""

    def __init__(self, ending: str = "column") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.ending = ending

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(1, 2, 3)) * self.scale
        if self.ending == "flat":
            return mean
        if self.ending == "batch":
            return torch.stack([mean - x.mean(), mean], dim=1)
        if self.ending == "nan":
            return torch.stack([mean, mean / 0.0], dim=1)
        if self.ending == "sigmoid":
            return torch.stack([mean, 0.5 * mean], dim=1).sigmoid()
        if self.ending == "map":
            return x
        return mean[:, None]


@pytest.mark.parametrize(("ending", "output", "low", "high"), [("flat", "values", 0, 4), ("column", "unit", -10, 30)])
def test_a_regressor_gives_values_in_the_users_units(
    ending: str, output: str, low: int, high: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    program = export_pt2(Mean(ending), (torch.rand(3, 3, 12, 12),), tmp_path / "r.pt2")
    words = ["--arch", "torch-export", "--checkpoint", program, "--normalise", "none"]
    flags = ["--label-range", f"{low}:{high}", "--label-unit", "degrees"]
    assert "--output values" in typed(capsys, *words, *flags, "--out", tmp_path / "p")[2]
    assert typed(capsys, *words, *flags, "--output", output, "--out", tmp_path / "p")[0] == 0
    images = random_images(4, 3, 12) // 3
    found = load_classifier(tmp_path / "p", CPU).predictions(images)
    raw = 2.0 * (images / 255).mean(dim=(1, 2, 3))
    wanted = raw if output == "values" else low + raw * (high - low)
    torch.testing.assert_close(found, wanted[:, None], atol=1e-4, rtol=0)


def test_channels_last_and_images_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mean = _last(tmp_path / "last.onnx")
    words = ["--arch", "onnx", "--checkpoint", mean, "--normalise", "none", "--output", "logits"]
    assert typed(capsys, *words, "--out", tmp_path / "p")[0] == 0
    images = random_images(5, 3, 12)
    torch.testing.assert_close(load_classifier(tmp_path / "p", CPU)(images), (images / 255).mean(dim=(2, 3)))
    code, found, error = typed(capsys, *words, "--image-size", 24, "--image-channels", 1, "--out", tmp_path / "q")
    assert code == 0, error
    assert found["images"] == "1 x 24 x 24, turned into 3 x 12 x 12"
    assert load_classifier(tmp_path / "q", CPU)(random_images(2, 1, 24)).shape == (2, 3)


def _last(path: Path) -> Path:
    axes = {"axes": np.array([1, 2])}
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["images"], keepdims=0)]
    slots = [("x", TensorProto.FLOAT, ["N", 12, 12, 3])]
    return onnx_model(path, nodes, slots, (TensorProto.FLOAT, ["N", 3]), axes)


PROGRAM = "--arch torch-export --checkpoint {fixed} --normalise half"
REFUSED = [
    ("--checkpoint {fixed}", ["--arch", "--normalise", "imagenet", "half", "raw", "MEAN;STD"]),
    ("--arch torch-export --checkpoint {fixed}", ["--normalise", "cifar10"]),
    ("--arch torch-export --checkpoint {fixed} --normalise cifar10", ["3 channels", "have 1"]),
    ("--arch torch-export --checkpoint {fixed} --normalise imagnet", ["imagnet", "imagenet"]),
    ("--arch torch-export --checkpoint {fixed} --normalise 127.5;127.5", ["divide"]),
    ("--arch torch-export --checkpoint {fixed} --normalise 0.5;0", ["above 0"]),
    ("--arch torch-export --checkpoint {fixed} --normalise nan;1", ["finite"]),
    ("--arch torch-export --checkpoint {nowhere} --normalise half", ["does not exist"]),
    ("--arch onnx --checkpoint {folder} --normalise half", ["is a folder"]),
    ("--arch onnx --checkpoint {nasty} --normalise half", ["nasty.pth", "ONNX"]),
    ("--arch torch-export --checkpoint {nasty} --normalise half", ["nasty.pth", "torch.export"]),
    ("--arch keras --checkpoint {fixed} --normalise half", ["keras", "onnx, torch-export"]),
    (f"{PROGRAM} --resolution 32", ["--resolution", "16"]),
    (f"{PROGRAM} --class-names a,b", ["2 names", "10 outputs"]),
    (f"{PROGRAM} --class-names a,a,b,c,d,e,f,g,h,i", ["'a'", "twice"]),
    (f"{PROGRAM} --output probabilities", ["--output logits"]),
    (f"{PROGRAM} --output values", ["--label-range"]),
    (f"{PROGRAM} --label-range 0:1 --class-names a,b", ["one kind"]),
    (f"{PROGRAM} --label-range 3:1", ["LOW"]),
    (f"{PROGRAM} --network-width 2", ["--network-width"]),
    (f"{PROGRAM} --data rotated-digits", ["10 classes", "a value", "rotated-digits"]),
    (f"{PROGRAM} --class-names 1,0,2,3,4,5,6,7,8,9 --data digits", ["another order", "--label-map"]),
    (f"{PROGRAM} --fold 1", ["--data"]),
    ("--arch torch-export --checkpoint {sigmoid} --normalise half", ["between 0 and 1", "sigmoid"]),
    ("--arch torch-export --checkpoint {probabilities} --normalise half", ["sum to 1", "--output probabilities"]),
    ("--arch resnet8 --checkpoint {nasty} --normalise half", ["--resolution", "--channels"]),
    (f"{STATE} --checkpoint {{nasty}} --normalise half --network-width 1", ["has shape", "--network-width"]),
    (f"--arch vgg8 {SIZE} --checkpoint {{nasty}} --normalise half", ["missing", "vgg8"]),
    (f"--arch timm:resnet18 {SIZE} --checkpoint {{nasty}} --normalise half", ["timm:resnet18"]),
    (f"--arch timm:nothing {SIZE} --checkpoint {{plain}} --normalise half", ["nothing"]),
    ("--arch torch-export --checkpoint {one} --normalise none", ["one number", "--label-range"]),
    ("--arch torch-export --checkpoint {batch} --normalise none", ["which other images"]),
    ("--arch torch-export --checkpoint {nan} --normalise none", ["finite"]),
    ("--arch torch-export --checkpoint {map} --normalise none", ["N x classes"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("refused")
    found = {"nowhere": folder / "nothing.pt2", "folder": folder, "nasty": files / "nasty.pth"}
    found |= {"fixed": files / "fixed.pt2", "probabilities": files / "probabilities.pt2"}
    for name, ending in (("one", "flat"), ("batch", "batch"), ("nan", "nan"), ("map", "map"), ("sigmoid",) * 2):
        found[name] = export_pt2(Mean(ending), (torch.rand(3, 3, 12, 12),), folder / f"{name}.pt2")
    found["plain"] = folder / "plain.pth"
    torch.save({"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}, found["plain"])
    return found


@pytest.mark.parametrize(("text", "named"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_does_not_fit_gets_one_sentence(
    text: str, named: list[str], places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, _, error = typed(capsys, *text.format(**places).split(), "--out", tmp_path / "p")
    assert code == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert all(word in last for word in named), last
    assert not (tmp_path / "p").exists()


def test_hostile_programs_meet_the_limits_of_teachers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    node = helper.make_node("Steal", ["x"], ["images"], domain="evil")
    path = onnx_model(tmp_path / "evil.onnx", [node], [("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
                      (TensorProto.FLOAT, ["N", 3]), opsets=[helper.make_opsetid("evil", 1)])  # fmt: skip
    code, _, error = typed(capsys, "--arch", "onnx", "--checkpoint", path, "--normalise", "none")
    assert code == 2
    assert "custom domain" in error
    torch.save(Mean(), tmp_path / "whole.pth")
    words = ["--arch", "resnet8", "--checkpoint", tmp_path / "whole.pth", "--normalise", "none"]
    code, _, error = typed(capsys, *words, "--resolution", 16, "--channels", 1)
    assert code == 2
    assert "could run code" in error
    assert "classifier's state dict" in error
    noise = onnx_model(tmp_path / "generator.onnx", [helper.make_node("RandomNormalLike", ["x"], ["images"])],
                       [("x", TensorProto.FLOAT, ["N", 3, 12, 12])], (TensorProto.FLOAT, ["N", 3]))  # fmt: skip
    code, _, error = typed(capsys, "--arch", "onnx", "--checkpoint", noise, "--normalise", "none")
    assert code == 2
    assert "generator.onnx draws random numbers" in error
    assert "follow from the image alone" in error


class Endless(nn.Module):
    """A classifier whose first image costs half a minute."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = torch.ones(2048, 2048)
        for _ in range(64):
            square = square @ square
        return x.mean(dim=(2, 3)) + square[0, 0] * 0.0


def test_a_program_that_does_not_end_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.trial.CPU_SECONDS", 1)
    path = export_pt2(Endless(), (torch.zeros(2, 3, SIDE, SIDE),), tmp_path / "endless.pt2")
    words = ["--arch", "torch-export", "--checkpoint", path, "--normalise", "none", "--out", tmp_path / "p"]
    code, _, error = typed(capsys, *words)
    assert code == 2
    assert "endless.pt2 does not finish its first images within 1 seconds of computing" in error
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("damage", ["file", "gone", "arguments", "labels"])
def test_a_damaged_folder_is_told(damage: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "p"
    words = ["--arch", "torch-export", "--checkpoint", files / "fixed.pt2", "--normalise", "half", "--out", out]
    assert typed(capsys, *words)[0] == 0
    card = json.loads((out / "card.json").read_text())
    if damage == "file":
        raw = bytearray((out / "program.pt2").read_bytes())
        raw[len(raw) // 2] ^= 1
        (out / "program.pt2").write_bytes(raw)
    elif damage == "gone":
        (out / "program.pt2").unlink()
    else:
        card["arguments"] = {} if damage == "arguments" else card["arguments"]
        card["label_space"]["names"] = card["label_space"]["names"][:9]
        (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"program\.pt2|card\.json"):
        load_classifier(out, CPU)


def test_images_and_labels_of_another_kind_are_told_before_work(
    files: Path, workspace: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wide, few = (export_pt2(nn.Sequential(nn.AdaptiveAvgPool2d((2, count // 2)), nn.Flatten()),
                            (torch.rand(2, 1, 24, 24),), tmp_path / f"{count}.pt2") for count in (10, 2))  # fmt: skip
    for name, path in (("wide", wide), ("few", few)):
        words = ["--arch", "torch-export", "--checkpoint", path, "--normalise", "half", "--output", "logits"]
        assert typed(capsys, *words, "--out", tmp_path / name)[0] == 0
    size, labels = "--image-size 16 --image-channels 1", "2 classes there"
    for command, text in (("sample", "--nfake-per-class 5"), ("score", ""), ("distill", "--method blkd --rho 1")):
        for name, remedy in (("wide", size), ("few", labels)):
            out = "" if command == "score" else f"--out {tmp_path / 'out'}"
            code = workspace.type(command, f"{text} --predictor {tmp_path / name} {out}", tiny=command != "score")
            assert code == 2
            if (command, name) != ("sample", "few"):  # sample looks at sizes first
                assert remedy in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))

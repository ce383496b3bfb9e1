"""`score --views` and `distill --outputs`: the teacher is not loaded, what it has seen is inherited, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import cli
import commands.distill
from commands.support.record import recorded_parents
from runtime.safe_files import read_sealed_json
from tests.support.program_models import onnx_model

pytestmark = pytest.mark.xdist_group("workspace")
FEW = "--real-per-class 10"
STUDENT = "--steps 3 --network resnet8 --network.width 0.25 --batch-size 16 --no-test"


@pytest.fixture(scope="module")
def outputs(workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three views of 100 real images and of all fakes."""
    folder = tmp_path_factory.mktemp("stored") / "outputs"
    assert workspace.type("score", f"--views 3 --pooled {FEW} --fakes {latest(workspace, 'fakes')} --out {folder}") == 0
    return folder


def latest(workspace: Any, kind: str) -> Path:
    return (workspace.folder / kind / "latest").resolve()


def refused(capsys: Any, words: str, *more: str) -> str:
    capsys.readouterr()
    assert cli.main([*words.split(), *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ")
    return str(said[-1])


def test_the_teacher_is_not_loaded(workspace: Any, outputs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Repeated real images, half of the fakes; what the student has seen is that of a training with the predictor."""
    mixed = f"{FEW} --rho 0.5 --real-share 0.5 {STUDENT}"
    assert workspace.type("distill", f"{mixed} --out {tmp_path / 'live'}", tiny=False) == 0
    monkeypatch.setattr(commands.distill, "load_predictor", lambda *given: pytest.fail("a predictor was loaded"))
    for method in ("blkd", "rkd --beside blkd", "crd"):
        out = tmp_path / method.split()[0]
        assert workspace.type("distill", f"{mixed} --outputs {outputs} --method {method} --out {out}", tiny=False) == 0
        assert (out / "seen.safetensors").read_bytes() == (tmp_path / "live" / "seen.safetensors").read_bytes()
        stored, live = (json.loads((tmp_path / name / "card.json").read_text()) for name in (out.name, "live"))
        assert stored["teacher"] == live["teacher"]
        assert recorded_parents(out)["outputs"] == read_sealed_json(outputs / "card.json")["source_digest"]
        result = read_sealed_json(out / "result.json")
        assert result["protocol"]["stored_views"] == 3
        assert result["seen"] == read_sealed_json(tmp_path / "live" / "result.json")["seen"]


def test_finished_outputs_are_left_alone(workspace: Any, outputs: Path, capsys: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in outputs.iterdir()}
    words = f"--views 3 --pooled {FEW} --fakes {latest(workspace, 'fakes')} --out {outputs}"
    found = workspace.json(capsys, "score", words)
    assert {path.name: path.stat().st_mtime_ns for path in outputs.iterdir()} == before
    assert (found["real"], found["fakes"]["rows"], found["views"], found["pooled"]) == (100, 800, 3, 32)
    assert "--out" in refused(capsys, f"score {words} --workspace {workspace.folder}".replace("--views 3", "--views 4"))


def test_a_dry_run_says_how_large(workspace: Any, capsys: Any, tmp_path: Path) -> None:
    plan = workspace.json(capsys, "score", f"--views 1000 {FEW} --out {tmp_path / 'o'} --dry-run")
    assert plan["needs"] == {"images": 100, "disk_mb": 4.0}
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("distill", "--real-per-class 11 --train-on real", "does not cover 10 of the 110 real training images"),
        ("distill", f"{FEW} --augmentation flip", "augmentation flip is not allowed"),
        ("distill", f"{FEW} --augmentation=", "holds views with the augmentation translate, and this training's is no"),
        ("distill", f"{FEW} --method none", "--outputs is of no use to the method none"),
        ("distill", f"{FEW} --method sskd", "method sskd requires rotations: stored outputs are of the training"),
        ("distill", f"{FEW} --method mlkd", "method mlkd requires views of its own"),
        ("distill", f"{FEW} --method uda", "method uda requires views of its own"),
        ("distill", f"{FEW} --method simkd", "method simkd asks for more of a teacher than --outputs"),
        ("distill", f"{FEW} --method at", "method at asks for more of a teacher than --outputs"),
        ("distill", f"{FEW} --method fitnet", "method fitnet asks for more of a teacher than --outputs"),
        ("distill", "--data rotated-digits --train-on real", "have different labels"),
        ("compare", f"{FEW} --parts sample", "--outputs are of one predictor, and --parts makes one for each seed"),
    ],
)
def test_what_does_not_fit_is_refused(
    workspace: Any, outputs: Path, capsys: Any, tmp_path: Path, command: str, words: str, said: str
) -> None:
    out = tmp_path / "out"
    text = f"{command} {words} --outputs {outputs} --workspace {workspace.folder} --out {out}"
    assert said in refused(capsys, text)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--views 2 --nearest", "--views and --nearest are two works"),
        ("--views 2 --workers 2", "--workers does nothing for --views"),
        ("--pooled", "--pooled is for --views"),
        ("--augmentation flip", "--augmentation is for --views"),
        ("--views 2 --augmentation=", "without augmentation all views are the same; give --views 1"),
        ("--views 2 --augmentation flip", "augmentation flip is not allowed"),
        ("--views 2 --data none", "there are no images to see"),
        ("--views 0", "--views '0'"),
    ],
)
def test_score_refuses(workspace: Any, capsys: Any, tmp_path: Path, words: str, said: str) -> None:
    text = f"score {words} --workspace {workspace.folder} --out {tmp_path / 'o'}"
    assert said in refused(capsys, text)
    assert not (tmp_path / "o").exists()


def test_what_the_predictor_has_seen_goes_with_its_outputs(workspace: Any, capsys: Any, tmp_path: Path) -> None:
    """A predictor of another fold has learnt from validation images of this one: refused, as it is when it runs."""
    other = f"--steps 2 --network resnet8 --network.width 0.25 --fold 1 --out {tmp_path / 'p'}"
    assert workspace.type("train-classifier", other, tiny=False) == 0
    assert workspace.type("score", f"--views 1 {FEW} --predictor {tmp_path / 'p'} --out {tmp_path / 'o'}") == 0
    text = f"distill --train-on real {FEW} --workspace {workspace.folder} --out {tmp_path / 'd'}"
    live = refused(capsys, f"{text} --predictor {tmp_path / 'p'}")
    assert "soft-label teacher" in live
    assert refused(capsys, f"{text} --outputs {tmp_path / 'o'}") == live
    assert "is of the predictor" in refused(
        capsys, f"{text} --outputs {tmp_path / 'o'} --predictor {latest(workspace, 'predictor')}"
    )


def test_a_black_box_gives_its_outputs(workspace: Any, capsys: Any, tmp_path: Path) -> None:
    weights = {"axes": np.array([1, 2]), "W": np.random.default_rng(0).normal(0, 1, (16, 10)).astype(np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "W"], ["images"]),
    ]
    slots = [("x", TensorProto.FLOAT, ["N", 1, 16, 16])]
    onnx_model(tmp_path / "p.onnx", nodes, slots, (TensorProto.FLOAT, ["N", 10]), weights)
    made = f"--arch onnx --checkpoint {tmp_path / 'p.onnx'} --normalise half --class-names 0,1,2,3,4,5,6,7,8,9"
    assert workspace.type("import-predictor", f"{made} --out {tmp_path / 'p'}") == 0
    text = f"score --views 2 {FEW} --predictor {tmp_path / 'p'} --workspace {workspace.folder} --out {tmp_path / 'o'}"
    assert "--pooled: this predictor is a program without insides" in refused(capsys, text, "--pooled")
    assert cli.main(text.split()) == 0
    student = f"--train-on real {FEW} {STUDENT} --outputs {tmp_path / 'o'}"
    found = workspace.json(capsys, "distill", f"{student} --out {tmp_path / 'd'}", tiny=False)
    assert "unknown" in found["seen"]
    said = refused(capsys, f"distill {student} --workspace {workspace.folder} --out {tmp_path / 'e'} --method rkd")
    assert "method rkd requires features: give its folder as --predictor, store pooled features too" in said


def test_fakes_alone(workspace: Any, capsys: Any, tmp_path: Path) -> None:
    fakes = latest(workspace, "fakes")
    assert workspace.type("score", f"{fakes} --views 1 --data none --out {tmp_path / 'o'}") == 0
    alone = f"--train-on fakes --fakes {fakes} {STUDENT} --outputs {tmp_path / 'o'} --out {tmp_path / 'd'}"
    found = workspace.json(capsys, "distill", alone, tiny=False)
    assert (found["protocol"]["method"], found["protocol"]["stored_views"]) == ("blkd", 1)
    words = alone.replace(str(tmp_path / "d"), str(tmp_path / "e"))
    assert "holds views with the augmentation none" in refused(
        capsys, f"distill {words} --augmentation translate --workspace {workspace.folder}"
    )


def test_compare_takes_them(workspace: Any, outputs: Path, capsys: Any, tmp_path: Path) -> None:
    words = f"{FEW} --methods none,blkd --sets real --seeds 0,1 --networks resnet8 --networks.width 0.25 --steps 2"
    found = workspace.json(capsys, "compare", f"{words} --outputs {outputs} --out {tmp_path / 'c'}")
    digest = read_sealed_json(outputs / "card.json")["source_digest"]
    assert found["comparison"] == str(tmp_path / "c")
    assert recorded_parents(tmp_path / "c")["outputs"] == digest
    cells = {path.parts[-3]: recorded_parents(path) for path in (tmp_path / "c" / "cells").glob("*/*/*/seed1/training")}
    assert {name: parents.get("outputs") for name, parents in cells.items()} == {"none": None, "blkd": digest}

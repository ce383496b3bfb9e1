"""What the README promises: its Python quick-start runs, and its commands exist with the options that it shows."""

import re
import shlex
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def _commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python cli.py")]


def test_every_command_has_an_example():
    from commands.support.table import COMMANDS

    shown = {shlex.split(line)[2] for line in _commands()}
    assert shown == set(COMMANDS)


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory):
    """A folder as the README sees it: configs, checkpoints, fakes in `f`, and the workspace with a student too."""
    import numpy as np
    import torch
    from onnx import TensorProto, helper

    from benchmarks.plain_biggan import PlainBigGAN, randomise
    from tests.support.program_models import onnx_model

    assert workspace.type("train-student") == 0
    root = tmp_path_factory.mktemp("readme")
    (root / "runs").mkdir()
    (root / "runs" / "digits").symlink_to(workspace.folder)
    (root / "f").symlink_to((workspace.folder / "fakes" / "latest").resolve())
    (root / "configs").symlink_to(ROOT / "configs")
    nodes, slots = [helper.make_node("ReduceMean", ["x", "axes"], ["images"], keepdims=0)], ["N", 3, 32, 32]
    axes = {"axes": np.array([2, 3])}
    output = (TensorProto.FLOAT, ["N", 3])
    onnx_model(root / "clf.onnx", nodes, [("x", TensorProto.FLOAT, slots)], output, axes)
    torch.save(randomise(PlainBigGAN(32, 2, 16, 10), 1).state_dict(), root / "G_ema.pth")
    return root


@pytest.mark.xdist_group("workspace")
@pytest.mark.parametrize("line", _commands())
def test_the_examples_work_as_written(line, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    line = line.replace("--out f", "--out new")  # `f` is what that made
    before = sorted(place.rglob("*"))
    assert cli.main([*shlex.split(line)[2:], "--dry-run", "--json"]) == 0, capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


@pytest.mark.xdist_group("workspace")
def test_the_quick_start_runs_on_what_sample_made(workspace, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
    fakes, teacher = ((workspace.folder / kind / "latest").resolve() for kind in ("fakes", "teacher"))
    code = code.replace('"f"', repr(str(fakes))).replace('"runs/digits/teacher/latest"', repr(str(teacher)))
    assert 8 <= len(code.strip().splitlines()) <= 16
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (64, 1, 16, 16)
    assert names["threes"].shape == (8, 1, 16, 16)

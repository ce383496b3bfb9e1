"""What the README promises: its Python quick-start runs, and its commands exist with the options that it shows."""

import re
import shlex
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def _commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python cli.py")]


def test_every_command_has_an_example():
    from commands.table import COMMANDS

    shown = {shlex.split(line)[2] for line in _commands()}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", _commands())
def test_the_examples_are_understood(line, tmp_path, capsys):
    words = shlex.split(line)[2:]
    if "--workspace" not in words:
        words += ["--workspace", str(tmp_path / "w")]
    words = [str(tmp_path / "w") if word == "runs/rotated" else word for word in words]
    assert cli.main([*words, "--dry-run", "--json"]) == 0, capsys.readouterr().err
    assert not (tmp_path / "w").exists()


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

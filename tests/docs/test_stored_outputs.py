"""docs/stored_outputs.md: its commands are typed in their order, with few steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import cli
from classifiers.stored_outputs import open_outputs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "stored_outputs.md").read_text()
FEWER = {"train-classifier": "--steps 2", "distill": "--steps 2", "compare": "--dry-run"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_commands_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if "cli.py" in line]
    done = 0
    for words in lines:
        if words[2] == "benchmark" or "photos" in words:
            continue
        capsys.readouterr()
        assert cli.main([*words[2:], *FEWER.get(words[2], "").split()]) == 0, (words, capsys.readouterr().err)
        done += 1
    assert done == 5
    names: dict = {}
    exec(compile(blocks("python")[0], "stored_outputs.md", "exec"), names)
    opened = open_outputs(tmp_path / "outputs")
    assert np.array_equal(names["logits"], opened.outputs)
    assert names["logits"].shape == (100, 16, 10)

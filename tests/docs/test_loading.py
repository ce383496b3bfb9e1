"""docs/loading.md: its torch example runs on what `sample` made, and its commands can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loading.md").read_text()
pytestmark = pytest.mark.xdist_group("workspace")


@pytest.fixture
def place(workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the fakes under the page's name."""
    (tmp_path / "f").symlink_to((workspace.folder / "fakes" / "latest").resolve())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_torch_example_trains(place: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(compile(code, "loading.md", "exec"), names)
    assert len(names["view"]) == 720
    assert len(names["first"]) == 100
    assert names["image"].dtype.is_floating_point
    assert names["loss"].isfinite()


def test_the_exports_can_be_made(place: Path, workspace: Any) -> None:
    block = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    lines = [shlex.split(line)[2:] for line in block.splitlines()]
    for words in lines:
        assert cli.main([*words, "--dry-run", "--workspace", str(workspace.folder)]) == 0
    assert len(lines) == 4

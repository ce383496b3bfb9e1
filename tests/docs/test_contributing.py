"""CONTRIBUTING.md: every example is one new file and one line, and works in a copy of the repository."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("add_toys", ROOT / "scripts" / "add_toys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "add_toys", module)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_one_new_file_and_one_line_behind_its_kind(script: Any) -> None:
    found = script.toys(PAGE)
    assert len(found) == 8
    for toy in found:
        assert not (ROOT / toy.new_file).exists()
        assert toy.line.split("(")[0] + "(" in (ROOT / toy.registry).read_text()
        assert ast.get_docstring(ast.parse(toy.code)), toy.new_file
        assert f'"{toy.name}"' in toy.code
    with pytest.raises(ValueError, match="A metric: give one new file"):
        script.toys(PAGE.replace("One line in `evaluation/", "Two lines in `evaluation/"))


@pytest.mark.slow
def test_the_toys_pass_the_contracts_and_train(script: Any, tmp_path: Path, capsys: Any) -> None:
    script.main(tmp_path)
    assert "8 toys, 2 files each at most" in capsys.readouterr().out

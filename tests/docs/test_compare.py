"""docs/compare.md: its recipes are understood, alone and joined."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compare.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]
OWN = {"sets": {"real": {"train_on": "real"}, "on": {"init_from": "baseline"}, "own": {"sample": {"filter": "none"}}}}
OWN["sets"]["taught"] = {"rho": "searched", "teacher": {"network": "vgg8_quarter"}}
OWN["sets"]["shared"] = {"teacher": "taught"}


@pytest.mark.parametrize("joined", [{}, BLOCKS[1] | OWN, BLOCKS[2], {"learning_rates": [0.01, 0.05]}])
def test_the_recipes_of_the_page_are_understood(joined: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert len(BLOCKS) == 3
    recipe = tmp_path / "compare.yaml"
    recipe.write_text(yaml.safe_dump(BLOCKS[0] | BLOCKS[1] | joined, sort_keys=False))
    words = ["compare", "--config", str(recipe), "--workspace", str(tmp_path / "w"), "--dry-run"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert not (tmp_path / "w").exists()

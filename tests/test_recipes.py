"""The recipes in configs/ and the scripts: each is headed as promised, and its commands are understood."""

import re
import shlex
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def _of_the_scripts():
    """Every command of a script, with its variables filled in; one turn of each loop."""
    for script in SCRIPTS:
        text = script.read_text().replace("\\\n", " ")
        few = re.search(r"^few=\((.*)\)$", text, flags=re.MULTILINE)
        values = {'"${few[@]}"': few.group(1) if few else "", '"$seed"': "0", '"$method"': "blkd", '"$@"': ""}
        for line in re.findall(r'^ *(?:"\$python" cli\.py|retort) ((?!\().*)$', text, flags=re.MULTILINE):
            for variable, value in values.items():
                line = line.replace(variable, value)
            yield script.name, re.sub(r"--workspace \S+|--config \"\$workspace\S+", "", line)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for_and_is_understood(path, tmp_path, capsys):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    found = [re.match(r"# (\w+):", line) for line in head]
    assert [match.group(1) for match in found if match] == ["Purpose", "Use", "Cost", "Expected"]
    command = re.search(rf"python cli\.py (\S+) --config configs/{re.escape(path.name)}", "\n".join(head)).group(1)
    words = [command, "--config", str(path), "--workspace", str(tmp_path / "w"), "--dry-run", "--json"]
    assert cli.main(words) == 0, capsys.readouterr().err


def test_all_recipes_and_scripts_were_seen():
    assert len(RECIPES) >= 9
    assert len(SCRIPTS) >= 2
    assert len(list(_of_the_scripts())) >= 12


@pytest.mark.parametrize(("script", "line"), list(_of_the_scripts()))
def test_the_commands_of_the_scripts_are_understood(script, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = [*shlex.split(line), "--workspace", str(tmp_path / "w"), "--dry-run", "--json"]
    assert cli.main(words) == 0, f"{script}: {line}: {capsys.readouterr().err}"

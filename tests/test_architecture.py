"""The design's rules that a machine can hold: who imports whom, sizes, and a command line that answers at once."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOUNDATION = {"interfaces": set(), "runtime": set(), "layers": {"interfaces", "runtime"}}
FOUNDATION["training"] = FOUNDATION["image_data"] = {"interfaces", "runtime", "layers"}
FOUNDATION["evaluation"] = FOUNDATION["exporters"] = FOUNDATION["image_data"] | {"training", "image_data"}
MIDDLE = ("teacher_sampler", "filters", "classifiers", "student_trainer", "white_box")
ALLOWED = FOUNDATION | {room: FOUNDATION["evaluation"] | {"evaluation"} for room in MIDDLE}
ALLOWED["benchmarks"] = set(ALLOWED)  # measures every room; of the rooms only `commands` imports it
ROOMS = (*ALLOWED, "commands")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_the_rooms_below_it(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, room
    for path in files:
        others = {name.split(".")[0] for name in _imports(path)} & set(ROOMS)
        assert others <= ALLOWED[room] | {room}, f"{path.relative_to(ROOT)} imports {others - ALLOWED[room] - {room}}"


def test_what_a_command_imports_is_packaged():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in packages} == set(ROOMS)


def test_commands_import_no_other_command():
    from commands.support.table import COMMANDS

    modules = {f"commands.{module}" for module, _ in COMMANDS.values()}
    assert len(modules) == len(COMMANDS)
    for name in modules:
        path = ROOT / (name.replace(".", "/") + ".py")
        assert not (_imports(path) & modules), path.name


def test_files_and_functions_stay_small():
    checked = 0
    for room in (*ROOMS, "tests"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 400, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    assert length <= 60, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"
            checked += 1
    assert checked > 60
    assert len((ROOT / "cli.py").read_text().splitlines()) < 150


def test_help_answers_without_what_is_slow_to_import():
    """Half a second on an idle machine; what costs more is one of these."""
    slow = ("torch", "numpy", "h5py", "sklearn", "matplotlib", "rich", "timm")
    code = f"import cli, sys; cli.main(['--help']); print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sample" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_explains_itself_without_torch():
    from commands.support.table import COMMANDS

    code = (
        "import sys, cli\n"
        "from commands.support.table import COMMANDS\n"
        "for name in COMMANDS:\n"
        "    cli.main([name, '--help'])\n"
        "    assert 'torch' not in sys.modules, name\n"
        "print(len(COMMANDS), 'commands')"
    )
    environment = {**os.environ, "COLUMNS": "110"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{len(COMMANDS)} commands" in done.stdout
    assert done.stdout.count("--dry-run") == len(COMMANDS)

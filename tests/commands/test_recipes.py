"""The recipes in configs/ and the scripts: each is headed as promised, and its commands are understood."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import cli
from tests.conftest import Workspace

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def _of_the_scripts():
    """Every command of a script, with its variables filled in; one turn of each loop."""
    for script in SCRIPTS:
        text = script.read_text().replace("\\\n", " ")
        values = {'"$seed"': "0", '"$method"': "blkd", '"$@"': "", '"${STUDENT:-resnet8}"': "resnet8"}
        arrays = re.findall(r"^(\w+)=\((.*)\)$", text, flags=re.MULTILINE)
        values |= {f'"${{{name}[@]}}"': words for name, words in arrays}
        for line in re.findall(r'^ *(?:"\$python" cli\.py|retort) ((?!\().*)$', text, flags=re.MULTILINE):
            for variable, value in values.items():
                line = line.replace(variable, value)
            yield (
                script.name,
                re.sub(r"--workspace \S+|--predictor \"\$assistant\"|--config \"\$workspace\S+", "", line),
            )


def _uses():
    """(recipe, command) of every line of every "Use"."""
    for path in RECIPES:
        for line in path.read_text().splitlines():
            found = re.match(r"#.*? python cli\.py (.*?)(   .*)?$", line)
            if found:
                yield path.name, found.group(1)


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory):
    """A folder as a user has it: configs, a small CIFAR-10, and a workspace of each kind with teacher to fakes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("recipes")
    (root / "runs").mkdir()
    (root / "runs" / "digits").symlink_to(workspace.folder)
    (root / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for number in range(10):
        for role, count in (("train", 130), ("test", 2)):
            folder = root / "data" / "cifar10" / role / f"kind{number}"
            folder.mkdir(parents=True)
            for image in range(count):
                Image.fromarray(rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{image}.png")
    own = Workspace(root / "runs" / "cifar10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETORT_DATA_DIR", str(root / "data"))
        small = "--data cifar10 --real-per-class 20"
        for command, sizes in (
            ("train-teacher", "--steps 2 --batch-size 4 --width 4 --discriminator-width 4 --standing-batches 1"),
            ("train-classifier", "--steps 2 --batch-size 8 --width 0.5 --network resnet8"),
            ("fit-filter", "--extractor-steps 2 --ratio-steps 3 --fakes-at-least 50 --extractor-width 4"),
        ):
            assert own.type(command, f"{small} {sizes}", tiny=False) == 0
        assert own.type("sample", "--nfake-per-class 6 --block-size 16 --pilot-candidates 16", tiny=False) == 0
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for(path):
    found = [re.match(r"# (\w+):", line) for line in path.read_text().splitlines() if line.startswith("#")]
    assert [match.group(1) for match in found if match] == ["Purpose", "Use", "Cost", "Expected"]
    assert any(name == path.name for name, _ in _uses())


@pytest.mark.xdist_group("workspace")
@pytest.mark.parametrize(("name", "line"), list(_uses()))
def test_the_use_of_a_recipe_works_as_written(name, line, place, monkeypatch, capsys):
    assert f"configs/{name}" in line
    monkeypatch.chdir(place)
    monkeypatch.setenv("RETORT_DATA_DIR", str(place / "data"))
    if name == "demo_few_labels.yaml":  # wants 500 fakes of each class, which it makes where there are none
        line += " --workspace runs/new"
    assert cli.main([*shlex.split(line), "--dry-run", "--json"]) == 0, capsys.readouterr().err


def test_all_recipes_and_scripts_were_seen():
    assert len(RECIPES) >= 9
    assert len(SCRIPTS) >= 2
    assert len(list(_of_the_scripts())) >= 12
    assert len(list(_uses())) >= len(RECIPES)


@pytest.mark.parametrize(("script", "line"), list(_of_the_scripts()))
def test_the_commands_of_the_scripts_are_understood(script, line, tmp_path, monkeypatch, capsys):
    """In a new workspace, where each command waits for the one before: its options are understood."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path / "no data"))
    words = [*shlex.split(line), "--workspace", str(tmp_path / "w"), "--dry-run", "--json"]
    code, told = cli.main(words), capsys.readouterr().err
    waits = ("cifar10 is not in", "; run `python cli.py", "; give --teacher, --fakes or --student")
    assert code == 0 or any(words in told for words in waits), f"{script}: {line}: {told}"

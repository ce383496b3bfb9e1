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
        text = re.sub(r'"\$\{\w+:-([^}]*)\}"', r"\1", text)  # variables of the environment: their defaults
        values = {'"$seed"': "0", '"$method"': "blkd", '"$@"': "", '"$file"': "fakes.h5"}
        arrays = re.findall(r"^(\w+)=\((.*)\)$", text, flags=re.MULTILINE)
        values |= {f'"${{{name}[@]}}"': words for name, words in arrays}
        for line in re.findall(r'^ *(?:"\$python" cli\.py|retort) ((?!\().*)$', text, flags=re.MULTILINE):
            for variable, value in values.items():
                line = line.replace(variable, value)
            yield (
                script.name,
                re.sub(r"--workspace \S+|--predictor \"\$assistant\"|--config \"\$workspace\S+", "", line),
            )


ELSEWHERE = {  # workspaces with data of their own: classes, px, the students that are trained on
    "quick": (10, 16, "resnet8"),
    "cifar100": (100, 32, "vgg8"),
    "tinyimagenet": (200, 64, "resnet8"),
    "imagenet100": (100, 128, "resnet20"),
}


def _uses(elsewhere=False):
    """(recipe, command) of every line of every "Use"; elsewhere: in workspaces of ELSEWHERE."""
    for path in RECIPES:
        for line in re.sub(r" \\\n#\s*", " ", path.read_text()).splitlines():
            found = re.match(r"#.*? python cli\.py (.*?)(   .*)?$", line)
            if found and elsewhere == any(f"runs/{name}" in line for name in ELSEWHERE):
                yield path.name, found.group(1)


def _scaled(line):
    """The line for the small stand-ins of its data and fakes."""
    few = " --real-per-class 20" if re.search(r"--real-per-class|_quick", line) else ""
    fakes = " --nfake 10" if "--nfake " in line or "configs/finetune" in line else ""
    return re.sub(r"--real-per-class \d+", "", line) + few + fakes


def _draw(folder, classes, px, counts):
    """An image folder of noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"augmentations": ["flip", "translate"]}')
    for number in range(classes):
        for role, count in counts.items():
            place = folder / role / f"kind{number}"
            place.mkdir(parents=True)
            for image in range(count):
                pixels = rng.integers(0, 256, size=(px, px, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{image}.png", compress_level=0)


@pytest.fixture
def any_machine(monkeypatch):
    """What a recipe for a GPU needs is not looked for."""
    monkeypatch.setattr("training.compiling.shutil.which", lambda name: name)
    monkeypatch.setattr("training.memory.free_memory_bytes", lambda: None)


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory):
    """A folder as a user has it: configs, a small CIFAR-10, and a workspace of each kind with teacher to fakes."""
    root = tmp_path_factory.mktemp("recipes")
    (root / "runs").mkdir()
    (root / "runs" / "digits").symlink_to(workspace.folder)
    (root / "configs").symlink_to(ROOT / "configs")
    _draw(root / "data" / "cifar10", 10, 32, {"train": 130, "test": 2})
    own = Workspace(root / "runs" / "cifar10")
    for few in ("c20k", "c10k"):
        (root / "runs" / few).symlink_to("cifar10")
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
    assert any(name == path.name for name, _ in [*_uses(), *_uses(elsewhere=True)])


@pytest.mark.xdist_group("workspace")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(*use, marks=[pytest.mark.slow] * bool(re.search("/c20k|/c10k|per-element", use[1])))
        for use in _uses()
    ],
)
@pytest.mark.usefixtures("any_machine")
def test_the_use_of_a_recipe_works_as_written(name, line, place, monkeypatch, capsys):
    """Up to where the work would begin: its networks are built for the images, and make a pass."""
    assert f"configs/{name}" in line
    monkeypatch.chdir(place)
    monkeypatch.setenv("RETORT_DATA_DIR", str(place / "data"))
    if name == "demo_few_labels.yaml":  # wants 500 fakes of each class, which it makes where there are none
        line += " --workspace runs/new"
    assert cli.main([*shlex.split(_scaled(line)), "--dry-run", "--json"]) == 0, capsys.readouterr().err


@pytest.fixture(scope="module", params=ELSEWHERE)
def other(request, tmp_path_factory):
    """The same with noise in the shape of other data: the workspace's name, and the folder."""
    name, (classes, px, student) = request.param, ELSEWHERE[request.param]
    root = tmp_path_factory.mktemp(name)
    (root / "configs").symlink_to(ROOT / "configs")
    folder = root / "data" / ("cifar10" if name == "quick" else name)
    _draw(folder, classes, px, {"train": 24 if name == "quick" else 3, "val": 2, "test": 1})
    own, data = Workspace(root / "runs" / name), f"--data {folder}"
    nokd = f"--out {root / 'runs' / name / 'nokd'} --network {student}"
    for command, sizes in (
        ("train-teacher", f"{data} --steps 1 --batch-size 4 --width 2 --discriminator-width 2 --standing-batches 1"),
        ("train-classifier", f"{data} --steps 1 --batch-size 4 --width 0.5 --network resnet8"),
        ("train-classifier", f"{data} --steps 1 --batch-size 4 {nokd}"),
        ("fit-filter", f"{data} --extractor-steps 1 --ratio-steps 1 --fakes-at-least 50 --extractor-width 2"),
        ("sample", f"--nfake-per-class 3 --block-size 100 --group-size {classes} --unit-candidates 3 --filter none"),
    ):
        assert own.type(command, sizes, tiny=False) == 0, command
    return name, root


@pytest.mark.slow
@pytest.mark.usefixtures("any_machine")
def test_the_recipes_of_data_that_are_not_here(other, monkeypatch, capsys):
    name, root = other
    monkeypatch.chdir(root)
    monkeypatch.setenv("RETORT_DATA_DIR", str(root / "data"))
    lines = [line for _, line in _uses(elsewhere=True) if f"runs/{name}" in line]
    assert len(lines) >= 3
    for line in lines:
        assert cli.main([*shlex.split(_scaled(line)), "--dry-run", "--json"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "line"), list(_uses(elsewhere=True)))
def test_a_recipe_of_data_that_are_not_here_is_understood(name, line, tmp_path, monkeypatch, capsys):
    assert f"configs/{name}" in line
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    code, told = cli.main([*shlex.split(line), "--dry-run", "--json"]), capsys.readouterr().err
    waits = ("is neither a known name", "cifar10 is not in", "; run `python cli.py", "nokd does not exist")
    assert code == 0 or any(words in told for words in waits), told


def test_all_recipes_and_scripts_were_seen():
    assert len(RECIPES) >= 9
    assert len(SCRIPTS) >= 2
    assert len(list(_of_the_scripts())) >= 12
    assert len([*_uses(), *_uses(elsewhere=True)]) >= len(RECIPES)


@pytest.mark.parametrize(("script", "line"), list(_of_the_scripts()))
def test_the_commands_of_the_scripts_are_understood(script, line, tmp_path, monkeypatch, capsys):
    """In a new workspace, where each command waits for the one before: its options are understood."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path / "no data"))
    words = [*shlex.split(line), "--workspace", str(tmp_path / "w"), "--dry-run", "--json"]
    code, told = cli.main(words), capsys.readouterr().err
    waits = ("cifar10 is not in", "; run `python cli.py", "; give --teacher, --fakes or --student")
    assert code == 0 or any(words in told for words in waits), f"{script}: {line}: {told}"

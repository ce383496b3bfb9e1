"""A dry run refuses what the run refuses, says how far it looked, and writes nothing; wrong artefacts are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import cli
from commands.support.artefact_kinds import FLAGS, WANTED, describe
from commands.support.options import SharedOptions
from commands.support.table import COMMANDS
from commands.support.workspace import check_inputs

pytestmark = pytest.mark.xdist_group("workspace")


def files_of(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def whole(workspace: Any) -> Any:
    """The workspace with a student too."""
    assert workspace.type("train-student") == 0
    return workspace


@pytest.fixture(scope="module")
def places(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What users give in the place of an artefact: every kind of them, and folders and files that are none."""
    root = tmp_path_factory.mktemp("places")
    found = {kind: (whole.folder / kind / "latest").resolve() for kind in WANTED if kind != "outputs"}
    cards = {"judge": {"architecture": "judge-x"}, "outputs": {"kind": "outputs"}}
    for name, text in {**cards, "evaluation": None, "rho": None, "plain": None}.items():
        found[name] = root / name
        found[name].mkdir()
        if text is not None:
            (found[name] / "card.json").write_text(json.dumps(text))
    record = {"digest": "", "content": {"command": "evaluate"}, "provenance": {}}
    (found["evaluation"] / "command.json").write_text(json.dumps(record))
    (found["rho"] / "choice.yaml").write_text("rho: 1.0\n")
    (found["plain"] / "photo.png").write_bytes(b"x")
    found["empty"], found["file"] = root / "empty", root / "G_ema.pth"
    found["empty"].mkdir()
    found["file"].write_bytes(b"x")
    return found | {"workspace": whole.folder, "all teachers": whole.folder / "teacher"}


def one_sentence(capsys: Any, words: list[str]) -> str:
    capsys.readouterr()
    code = cli.main(words)
    shown = capsys.readouterr()
    assert code == 2, shown
    lines = [line for line in shown.err.splitlines() if not re.match(r"(train|val|test) ", line)]
    assert len(lines) == 1, lines
    assert shown.out == ""
    return lines[0]


@pytest.mark.parametrize("flag", list(FLAGS))
def test_an_artefact_of_another_kind_is_refused_for_every_flag(flag: str, places: dict[str, Path]) -> None:
    from runtime.errors import UserError

    class Options(SharedOptions):
        pass

    wanted, shown = WANTED[FLAGS[flag]][0], "--" + flag.replace("_", "-")
    for kind, path in places.items():
        options = Options()
        object.__setattr__(options, flag, path)
        if kind == FLAGS[flag]:
            check_inputs(options)
            assert describe(path) == wanted
            continue
        with pytest.raises(UserError, match=re.escape(f"; {shown} needs {wanted}: give ")) as refused:
            check_inputs(options)
        assert str(refused.value).startswith(f"{path} is a"), refused.value


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_every_command_refuses_it(dry: str, whole: Any, places: dict[str, Path], capsys: Any) -> None:
    import importlib

    seen = 0
    for command, (module, _) in COMMANDS.items():
        fields = importlib.import_module(f"commands.{module}").Options.model_fields
        for flag in set(FLAGS) & set(fields):
            other = "student" if FLAGS[flag] == "teacher" else "teacher"
            extra = {"score": ["--nearest"], "benchmark": ["sampling"]}.get(command, [])
            extra = [] if command == "benchmark" and flag == "student" else extra
            extra = ["verify"] if command == "benchmark" and flag == "fakes" else extra
            words = [command, *extra, "--" + flag.replace("_", "-"), str(places[other]), "--workspace"]
            told = one_sentence(capsys, [*words, str(whole.folder), *([dry] if dry else [])])
            assert f"{places[other]} is a {'student generator' if other == 'student' else other}; " in told
            seen += 1
    assert seen > 25


def test_an_unfinished_artefact_and_a_missing_one(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    shared = ["--workspace", str(tmp_path / "w"), "--dry-run"]
    assert "is not finished" in one_sentence(capsys, ["sample", "--teacher", str(tmp_path / "half"), *shared])
    assert "does not exist" in one_sentence(capsys, ["sample", "--teacher", str(tmp_path / "none"), *shared])


RUNS = {
    "import-teacher": "--arch retort --checkpoint {w}/teacher/latest --standing-batches 2",
    "import-predictor": "--arch resnet8 --resolution 16 --channels 1 --normalise half --checkpoint {file}",
    "serve-teacher": "--port 0",
    "score": "--nearest --predictor {w}/predictor/latest",
    "inspect": "--plots {out}/plots",
    "export": "--out {out}/student.pt2",
    "export-h5": "--out {out}/fakes.h5",
    "export-fakes": "--to parquet --out {out}/fakes",
    "report": "--out {out}/report.html",
    "demo": "--workspace {out}/demo",
    "train-student": "--white-box",
    "evaluate": "--judge-steps 3",
    "benchmark": "sampling",
}


@pytest.fixture(scope="module")
def classifier_file(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The predictor's weights as others would hand them over."""
    import torch
    from safetensors.torch import load_file

    path = tmp_path_factory.mktemp("foreign") / "classifier.pth"
    torch.save(load_file(whole.folder / "predictor" / "latest" / "weights.safetensors"), path)
    return path


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_dry_run_checks_all_and_writes_nothing(
    command: str, whole: Any, classifier_file: Path, tmp_path: Path, capsys: Any
) -> None:
    before = files_of(whole.folder)
    text = RUNS.get(command, "").format(w=whole.folder, out=tmp_path, file=classifier_file)
    capsys.readouterr()
    code = cli.main([command, "--workspace", str(whole.folder), *text.split(), "--dry-run", "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert json.loads(shown.out)["checked"] == "all"
    assert files_of(whole.folder) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train-teacher --data nowhere", "nowhere"),
        ("train-teacher --diffaugment flip", "flip"),
        ("train-classifier --augmentation flip", "flip"),
        ("train-classifier --network nonet", "nonet"),
        ("fit-filter --mlp mlp2", "mlp2"),
        ("fit-filter --real-per-class 1", "can be held out"),
        ("sample --labels 0:1:2", "--labels"),
        ("sample --image-size 32", "--image-size"),
        ("distill --rho 0.5 --nfake-per-class 100000", "100000"),
        ("distill --resolution 32", "1x32x32 here and 1x16x16 there"),
        ("distill --init-from {w}/predictor/latest --network vgg8", "not the student vgg8"),
        ("search-rho --networks nonet", "nonet"),
        ("train-student --real --resolution 32", "size"),
        ("train-student --white-box --white-box-losses nothing=1", "nothing"),
        ("train-student --white-box --white-box-taps a:b", "a"),
        ("evaluate --inception {w}/none.pth", "none.pth"),
        ("evaluate --resolution 24", "24"),
        ("export --out {w}/teacher", "exists"),
        ("export-h5 --out {w}/teacher", "exists"),
        ("export-fakes --out {w}/teacher", "exists"),
        ("export-fakes --to zip", "zip"),
        ("inspect --keep nothing>1", "nothing"),
        ("sample --out {w}", "not empty"),
        ("train-teacher --out {w}/filter/latest", "other options"),
        ("train-student --out {w}/teacher/latest", "other options"),
        ("serve-teacher --host 0.0.0.0 --port 0", "token"),
        ("serve-teacher --host nowhere.invalid --token-file {w}/none", "none"),
        ("demo", "--workspace"),
        ("verify --workers 3", "--workers"),
        ("score --fold 1", "--nearest"),
        ("list --device cuda:77", "cuda:77"),
        ("status --engine ray", "--engine"),
        ("train-teacher --ray-address x:1", "--ray-address"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(words: str, said: str, whole: Any, capsys: Any) -> None:
    before = files_of(whole.folder)
    typed = [*words.format(w=whole.folder).split(), "--workspace", str(whole.folder)]
    told = one_sentence(capsys, [*typed, "--dry-run"])
    assert said in told
    assert one_sentence(capsys, typed) == told
    assert files_of(whole.folder) == before


def test_it_says_how_far_it_could_look(tmp_path: Path, capsys: Any) -> None:
    for command, missing in (("sample", "teacher"), ("distill", "fakes"), ("train-student", "fakes")):
        capsys.readouterr()
        assert cli.main([command, "--workspace", str(tmp_path / "new"), "--dry-run", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["checked"] == f"as far as possible without the {missing}, which is not there yet"
        assert "`python cli.py" in plan["inputs"][missing]
    assert not (tmp_path / "new").exists()


def test_paths_in_suggested_commands_are_quoted(whole: Any, tmp_path: Path) -> None:
    import shlex
    import shutil

    from commands.search_rho import show
    from commands.support.remedies import remedies

    folder = tmp_path / "my fakes (old)"
    shutil.copytree((whole.folder / "fakes" / "latest").resolve(), folder)
    (said,) = remedies(folder, [f"{folder}/run.json is damaged"])
    assert shlex.split(said.split("`")[1]) == ["python", "cli.py", "repair", str(folder)]
    shown = show({"table": "", "seen": "", "config": "a b/choice.yaml"})
    assert shlex.split(shown.split("use it: ")[1])[-1] == "a b/choice.yaml"

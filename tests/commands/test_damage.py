"""Damaged and hostile small files of a workspace: one sentence, or the damaged part is named and the rest is shown."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runtime.safe_files import read_sealed_json, write_sealed_json
from tests.conftest import Workspace

pytestmark = pytest.mark.xdist_group("workspace")

DAMAGE = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "huge number": b'{"x": 1e9999}',
    "bad utf-8": b'{"x": "\xff"}',
    "deep": b"[" * 100_000,
}


@pytest.fixture
def copy(workspace: Workspace, tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "w")
    shutil.copytree(workspace.folder, made.folder, symlinks=True)
    return made


def refused(copy: Workspace, capsys: pytest.CaptureFixture[str], command: str, text: str, named: str) -> str:
    capsys.readouterr()
    assert copy.type(command, text, tiny="--config" not in text) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    return lines[0]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_card_is_one_sentence(copy, capsys, name: str, tmp_path: Path) -> None:
    for kind in ("filter", "predictor", "teacher"):
        path = (copy.folder / kind / "latest").resolve() / "card.json"
        whole = path.read_bytes()
        path.write_bytes(DAMAGE[name])
        refused(copy, capsys, "sample", f"--out {tmp_path / 'o'}", str(path))
        path.write_bytes(whole.replace(b'"resolution_px": 16', b'"resolution_px": 24'))
        line = refused(copy, capsys, "sample", f"--out {tmp_path / 'o'}", str(path))
        assert "(its seal does not match); restore it" in line
        path.write_bytes(whole)
    assert not (tmp_path / "o").exists()


def test_status_lists_what_is_damaged_and_what_is_not_sealed(copy, capsys) -> None:
    folders = {kind: (copy.folder / kind / "latest").resolve() for kind in ("teacher", "filter", "predictor", "fakes")}
    (folders["teacher"] / "command.json").write_bytes(b"[" * 100_000)
    (folders["filter"] / "card.json").write_bytes(b"")
    os.remove(folders["predictor"] / "card.json")
    os.mkfifo(folders["predictor"] / "card.json")
    record = read_sealed_json(folders["fakes"] / "command.json")
    record["provenance"]["command_line"] = "cli.py sample \x1b[2J"
    (folders["fakes"] / "command.json").write_text(json.dumps(record))
    assert copy.type("status") == 0
    shown = capsys.readouterr().out
    assert shown.count("damaged (latest)") == 3
    for path in (
        folders["teacher"] / "command.json",
        folders["filter"] / "card.json",
        folders["predictor"] / "card.json",
    ):
        assert str(path) in shown
    assert f"{folders['fakes'] / 'command.json'} is not sealed" in shown
    assert "\x1b" not in shown


def test_an_older_card_without_a_seal_is_read_and_named(copy, capsys) -> None:
    path = (copy.folder / "filter" / "latest").resolve() / "card.json"
    path.write_text(json.dumps(read_sealed_json(path)))
    found = copy.json(capsys, "inspect", tiny=False)
    assert any(f"{path} is not sealed" in text for text in found["missing"])


def test_the_report_names_damaged_parts_and_goes_on(copy, capsys) -> None:
    classifier = copy.folder / "classifier" / "00000000"
    rho, evaluation = copy.folder / "rho" / "latest", copy.folder / "evaluation" / "latest"
    for folder, name in ((classifier, "result.json"), (rho, "choice.json"), (evaluation, "result.json")):
        folder.mkdir(parents=True)
        write_sealed_json(folder / name, {"rho": 0.5})
        path = folder / name
        path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    (rho / "choice.yaml").write_text("rho: 0.5\n")
    (classifier.parent / "11111111").mkdir()
    (classifier.parent / "11111111" / "result.json").write_text("")
    capsys.readouterr()
    assert copy.type("report") == 0
    shown = capsys.readouterr().out
    for path in (classifier / "result.json", rho / "choice.json", evaluation / "result.json"):
        assert f"{path} is not as it was written (its seal does not match)" in shown
    assert f"{classifier.parent / '11111111' / 'result.json'} is empty" in shown
    page = (copy.folder / "report.html").read_text()
    assert page.count("it is left out here") == 4


def test_a_choice_that_was_changed_is_refused(copy, capsys, tmp_path: Path) -> None:
    from classifiers.rho_choice import choose, write_choice
    from classifiers.rho_search import Cell, CellResult

    path = tmp_path / "choice.yaml"
    write_choice(choose([CellResult(Cell(1.0, "resnet8", 0), (0.1,), (), {})]), path)
    whole = path.read_text()
    for changed in (whole.replace("rho: 1.0", "rho: 0.6"), whole.replace("seal: ", "seal: 0"), whole + "steps: 3\n"):
        path.write_text(changed)
        refused(copy, capsys, "distill", f"--config {path} --out {tmp_path / 'o'}", f"--config {path} is not as it was")
    assert not (tmp_path / "o").exists()


HOSTILE_CONFIGS = {
    "laughs": "\n".join(
        ["network: &k0 [z,z,z,z,z,z,z,z,z,z]"]
        + [f"k{n}: &k{n} [{','.join([f'*k{n - 1}'] * 10)}]" for n in range(1, 10)]
    ),
    "deep": "[" * 100_000,
    "digits": "seed: " + "7" * 5000,
    "wide value": "steps: [" + ", ".join(["1"] * 20_000) + "]",
    "tree": "steps: {a: {b: {c: [" + ", ".join(["x"] * 20_000) + "]}}}",
    "long text": "steps: " + "x" * 60_000,
    "many mistakes": "rhos: [" + ", ".join(["x"] * 5_000) + "]",
    "escape codes": 'network: "\\e]0;title\\a\\e[2J"',
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_a_hostile_config_is_one_short_sentence(copy, capsys, name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE_CONFIGS[name])
    line = refused(copy, capsys, "search-rho", f"--config {path} --out {tmp_path / 'o'}", "error: ")
    assert len(line) < 3000
    assert line.isprintable()


def test_a_pipe_or_a_device_is_no_file_to_read(copy, capsys, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for text in (f"--config {path}", f"--label-map {path}"):
            refused(copy, capsys, "sample", f"{text} --out {tmp_path / 'o'}", "not a file to read")
        refused(copy, capsys, "serve-teacher", f"--token-file {path}", "not a file to read")


def test_names_from_files_reach_the_terminal_without_control_characters(copy, capsys) -> None:
    path = (copy.folder / "fakes" / "latest").resolve() / "command.json"
    record = read_sealed_json(path)
    record["provenance"]["command_line"] = "cli.py \x1b]0;mine\x07 \u202e end"
    write_sealed_json(path, record)
    assert copy.type("status") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    (copy.folder / "fakes" / "latest" / "manifest.json").unlink()
    capsys.readouterr()
    assert copy.type("status") == 0
    shown = capsys.readouterr().out
    assert "continue with: python cli.py \\x1b]0;mine\\x07 \\u202e end" in shown

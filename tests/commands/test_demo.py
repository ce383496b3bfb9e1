"""The demo at its smallest: one fold, untrained networks; what is tested is the path, not the numbers."""

import json
import os

import pytest

import cli

SMALL = "--folds 1 --teacher-steps 10 --nfake-per-class 20 --classifier-steps 10 --student-steps 10 --workers 1"


@pytest.mark.slow
def test_demo_ends_with_tables_and_a_report_and_continues(tmp_path, capsys):
    words = ["demo", *SMALL.split(), "--rhos", "0.5,1.0", "--workspace", str(tmp_path / "demo"), "--json"]
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    rows = [(line["method"], line["training_set"]) for line in result["methods"]["black-box"]["lines"]]
    assert len(rows) == len(set(rows)) == 10
    assert rows[0] == ("none", "real")
    assert "real + fakes, rho searched against none on real" in " ".join(result["details"])
    assert (tmp_path / "demo" / "report.html").stat().st_size > 100_000
    assert (tmp_path / "demo" / "pictures.png").stat().st_size < 500_000
    made = sorted(path for path in (tmp_path / "demo").rglob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in made]
    assert cli.main(words) == 0  # everything is finished: only the report is written again
    assert [path.stat().st_mtime_ns for path in made] == stamps
    assert cli.main([*words, "--folds", "2"]) == 2


def test_the_progress_never_looks_into_checkpoints(tmp_path, monkeypatch):
    """They come and go under temporary names while it looks."""
    from commands.reporting.demo_work import DemoPlan, work_done

    for home in (
        "few-labels/parts/seed1/teacher/aa",
        "product/student/bb",
        "black-box/cells/real/net/none/seed0/training",
    ):
        (tmp_path / home / "checkpoints" / ".step_1.tmp").mkdir(parents=True)
        (tmp_path / home / "command.json").touch()
        (tmp_path / home / "card.json").touch()
    scandir = os.scandir

    def vanished(path="."):
        if "checkpoints" in str(path):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    assert work_done(DemoPlan(tmp_path)) == 150 + 120 + 8

"""Sixty hostile inputs of each kind: each is read, or refused with one sentence that names it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

import cli
from image_data.real import load_real
from image_data.real.whole import open_whole
from runtime.errors import UserError
from tests.support.hostile_data import CASES, KINDS, sources


def outcome(source: Path) -> list[str]:
    """ "read", or the sentence of the refusal: as `--data`, and as ready images."""
    found = []
    for opener in (load_real, open_whole):
        try:
            made = opener(source)
            if opener is open_whole:
                count = sum(len(piece) for piece in made.pieces())
                assert count == len(made.labels) > 0
            found.append("read")
        except UserError as error:
            found.append(str(error))
    return found


def check(kind: str, folder: Path, chosen: range) -> list[list[str]]:
    found = []
    for case, source in sources(kind, folder, chosen):
        outcomes = outcome(source)
        for text in outcomes:
            if text != "read":
                assert str(source) in text, (case, text)
                assert "\n" not in text, (case, text)
                assert text.isprintable(), (case, text)
                assert len(text) < 1500, (case, text)
        found.append(outcomes)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_third_of_the_hostile_inputs(kind: str, tmp_path: Path) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(check(kind, tmp_path, range(0, CASES, 3))) == CASES // 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 700_000  # KiB: no bomb was unpacked


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_hostile_inputs_through_the_commands(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check(kind, tmp_path, range(CASES))
    for case in range(CASES):
        source = next((tmp_path / f"{kind}{case}").glob("data*"))
        capsys.readouterr()
        code = cli.main(["train-classifier", "--data", str(source), "--steps", "1", "--batch-size", "4", "--network",
                         "vgg8_quarter", "--out", str(tmp_path / f"{kind}{case}" / "out")])  # fmt: skip
        said = capsys.readouterr().err
        assert code in (0, 2), (case, said)
        assert "Traceback" not in said, (case, said)

"""scripts/: they parse, and the options in those for SLURM and TAKD are options of the commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from commands.sample import Options
from commands.support.command_line import build_command
from commands.support.resolving import resolve
from tests.conftest import Workspace

SCRIPTS = sorted(path for path in (Path(__file__).resolve().parents[2] / "scripts").iterdir() if path.suffix != ".py")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_options_in_the_script_for_slurm_are_those_of_sample() -> None:
    import commands.sample

    (script,) = (path.read_text() for path in SCRIPTS if path.suffix == ".sbatch")
    words = shlex.split(re.search(r"^sampling=\((.*?)\)", script, flags=re.MULTILINE)[1])
    last = script.replace('"${sampling[@]}"', shlex.join(words)).replace("$address", "h:1").replace("$workspace", "w")
    call = shlex.split(re.search(r'^"\$python" cli\.py sample (.*)$', last, flags=re.MULTILINE)[1])
    context = build_command("sample", "", commands.sample).make_context("sample", call)
    given = {name: value for name, value in context.params.items() if value is not None}
    options = Options.model_validate(given)
    assert (options.engine, options.ray_address, options.workspace) == ("ray", "h:1", Path("w"))


def test_the_options_in_the_script_of_takd_are_those_of_distill() -> None:
    import commands.distill

    script = next(path.read_text() for path in SCRIPTS if path.name == "takd.sh")
    words = shlex.split(re.search(r"^blkd=\((.*?)\)", script, flags=re.MULTILINE)[1])
    given = {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    method = resolve(commands.distill.Options, None, given).method
    assert (method.name, method.settings.temperature) == ("blkd", 10.0)
    assert (method.settings.hard_weight, method.settings.soft_weight) == (0.5, 0.5)
    calls = re.findall(r"cli\.py distill ([^|\n]*)", script)
    assert len(calls) == 2
    assert all('"${blkd[@]}"' in call for call in calls)
    assert '--predictor "$assistant"' in calls[1]


@pytest.mark.slow
@pytest.mark.xdist_group("workspace")
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_scripts_of_the_methods_run(workspace: Workspace, tmp_path: Path) -> None:
    """On the digits, with real images alone and with fakes; and the file of fakes, also the second time."""
    place = tmp_path / "w"
    shutil.copytree(workspace.folder, place, symlinks=True)
    environment = {**os.environ, "PYTHON": sys.executable, "NFAKE_PER_CLASS": "4", "RHO": "0.5"}

    def run(name: str, words: str) -> str:
        command = ["bash", str(SCRIPTS[0].parent / f"{name}.sh"), str(place), *words.split()]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    for name in ("nokd", "blkd", "sskd", "uda", "takd"):
        assert "test error" in run(name, "--steps 3 --width 0.5")
        assert "test error" in run(name, "--steps 3 --width 0.5 --train-on mixed --rho 0.5")
    for _ in range(2):
        run("gen_synt_data", "--block-size 64 --pilot-candidates 64")
        with h5py.File(place / "fakes_NfakePerClass_4_rho_0.5.h5") as file:
            assert file["fake_images"].shape[0] == len(file["fake_labels"]) == 40

"""SIGKILL in the middle of each long command, then the same command: the result of an undisturbed run, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.digests import file_sha256
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("workspace")

LONG = {  # options, what shows that work is under way, and the file whose bytes are compared
    "train-teacher": ("--steps 60 --checkpoint-every-steps 10", "checkpoints/step_*", "weights.safetensors"),
    "train-student": ("--steps 60 --checkpoint-every 10", "checkpoints/step_*", "weights.safetensors"),
    "distill": ("--steps 400 --checkpoint-every-steps 20", "checkpoints/step_*", "weights.safetensors"),
    "sample": ("--nfake-per-class 200", "shards/*.h5", "manifest content"),
}


def _command(name, options, workspace, out):
    tiny = TINY[name].split()
    return [sys.executable, "cli.py", name, *tiny, *options.split(), "--workspace", str(workspace), "--out", str(out)]


def _digest(out, what):
    if what == "manifest content":
        from image_data.fake import open_fakes

        return open_fakes(out).digest
    return file_sha256(out / what)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_killed_and_continued_equals_undisturbed(name, workspace, tmp_path):
    options, sign, what = LONG[name]
    environment = {**os.environ, "RETORT_PROGRESS": "off"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(_command(name, options, workspace.folder, whole), cwd=ROOT, env=environment, check=True)
    process = subprocess.Popen(_command(name, options, workspace.folder, broken), cwd=ROOT, env=environment)
    deadline = time.monotonic() + 120
    while not list(broken.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed_midway = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed_midway, "the command ended before it could be killed"
    subprocess.run(_command(name, options, workspace.folder, broken), cwd=ROOT, env=environment, check=True)
    assert _digest(broken, what) == _digest(whole, what)

"""torchrun with two processes on the CPU: the same batches and losses as without it, kills, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.digests import file_sha256
from tests.conftest import Workspace
from tests.support.float64 import float64_trainings

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RETORT_PROGRESS": "off"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
TRAININGS = {  # distill: LayerNorm only; the light classifier and the GANs' generators have batch norm
    "distill": "--steps 12 --network timm:test_efficientnet_ln --log-every-steps 1 --batch-size 16 --width 1 "
    "--ema-half-life-images 200 --checkpoint-every-steps 5 --mixing batch-ratio --real-share 0.4 --data-on-device",
    "distill-stored": "--steps 6 --network timm:test_efficientnet_ln --log-every-steps 1 --batch-size 16 "
    "--train-on real",  # from stored outputs
    "train-classifier": "--steps 5 --log-every-steps 1 --batch-size 16",
    "train-teacher": "--steps 6 --stats-every-steps 1 --diffaugment translation,cutout --r1-weight 0.1 "
    "--lr-g 5e-5 --lr-d 1e-4",
    "train-student": "--steps 6 --log-every 1 --games-from 0 --r1-weight 0.1 --r1-every 2 --feature-weight 0.1 "
    "--adversarial-weight 0.1 --discriminator-pair-weight 1 --diffaugment color,cutout --lr 1e-3 --white-box "
    "--white-box-losses kernel_alignment=0.1,feature_l2=0.1",
}
BOUND = 1e-9  # of losses of size 1 in float64, whose rounding is 1e-16
pytestmark = pytest.mark.xdist_group("workspace")


def words(workspace: Workspace, name: str, out: Path) -> list[str]:
    from tests.conftest import TINY

    command = name.removesuffix("-stored")
    tiny = [] if command == "distill" else TINY[command].split()
    tiny += ["--outputs", str(out.parents[1] / "outputs")] if name == "distill-stored" else []
    return [command, *tiny, *TRAININGS[name].split(), "--workspace", str(workspace.folder), "--out", str(out), "--json"]


def two_ranks(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def differences(one: Path, other: Path) -> list[float]:
    """The largest difference of any number in each line of the logs."""
    pairs = list(zip(losses(one), losses(other), strict=True))
    assert all(a.keys() == b.keys() and a["step"] == b["step"] for a, b in pairs)
    return [max(abs(a[name] - b[name]) for name in a if name != "warning") for a, b in pairs]


@pytest.fixture(scope="module")
def both(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders alone/NAME and ranked/NAME of each training; all that is ranked comes from one launch."""
    folder = tmp_path_factory.mktemp("ranked")
    assert workspace.type("score", f"--views 2 --out {folder / 'outputs'}") == 0
    commands = [["call", "in_float64", *words(workspace, name, folder / "ranked" / name)] for name in TRAININGS]
    (folder / "commands.json").write_text(json.dumps([["call", "whole_batch_in_float64"], *commands]))
    done = two_ranks("tests/support/ranked_script.py", folder / "commands.json")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stdout").write_text(done.stdout)
    import cli

    with float64_trainings():
        for name in TRAININGS:
            assert cli.main(words(workspace, name, folder / "alone" / name)) == 0
    return folder


def test_two_ranks_and_one_make_the_same(both: Path) -> None:
    """Each loss of each step of each trainer, batch norms and optimisers included; cards; and one rank that prints.

    One test, because the trainings behind it are long, and processes that share the tests share no fixtures.
    """
    for name, text in TRAININGS.items():
        alone, ranked = both / "alone" / name, both / "ranked" / name
        values = differences(alone, ranked)
        assert len(values) >= int(text.split()[1])  # a line a step, and those of validation
        assert max(values) < BOUND, (name, values)
        assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in ranked.iterdir())
        for file in ("card.json", "result.json") if name.startswith("distill") else ("card.json",):
            one, other = (json.loads((folder / file).read_text()) for folder in (alone, ranked))
            assert one.keys() == other.keys()
            for entry in ("trained_on", "protocol", "settings", "arguments"):
                assert one.get(entry) == other.get(entry)
    printed = [json.loads(line) for line in (both / "stdout").read_text().splitlines() if line.startswith("{")]
    assert [next(iter(line)) for line in printed] == ["classifier", "classifier", "predictor", "teacher", "student"]


def test_a_batch_that_cannot_be_shared_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    done = two_ranks("cli.py", *words(workspace, "distill", tmp_path / "out"), "--batch-size", "15")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert done.stderr.count("--batch-size 15 counts the images of all 2 ranks together") == 1
    assert "exitcode  : 2" in done.stderr
    assert "Traceback" not in done.stderr.split("error: ")[0]  # torchrun prints its own behind it
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_continued_with_two_ranks_and_with_one(workspace: Workspace, both: Path, tmp_path: Path) -> None:
    def longer(out: Path) -> list[str]:
        return [*words(workspace, "distill", out), "--steps", "40"]

    out = tmp_path / "out"
    (tmp_path / "undisturbed.json").write_text(json.dumps([["call", "in_float64", *longer(tmp_path / "ranked")]]))
    (tmp_path / "killed.json").write_text(json.dumps([["call", "in_float64", *longer(out)]]))
    assert two_ranks("tests/support/ranked_script.py", tmp_path / "undisturbed.json").returncode == 0
    command = [*TORCHRUN, "tests/support/ranked_script.py", str(tmp_path / "killed.json")]
    launched = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoints/step_*")) and launched.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    under_way = launched.poll() is None
    children = [int(line) for line in _children(launched.pid)]
    for process in (launched.pid, *children):
        os.kill(process, signal.SIGKILL)
    launched.wait()
    assert under_way, "the training ended before it could be killed"
    assert not (out / "card.json").exists()
    _wait_until_gone(children)
    shutil.copytree(out, tmp_path / "copy" / "out")
    done = two_ranks("tests/support/ranked_script.py", tmp_path / "killed.json")
    assert done.returncode == 0, done.stderr[-3000:]
    weights = "weights.safetensors"
    assert file_sha256(out / weights) == file_sha256(tmp_path / "ranked" / weights)
    import cli

    with float64_trainings():
        assert cli.main(longer(tmp_path / "copy" / "out")) == 0
    assert max(differences(tmp_path / "copy" / "out", out)) < BOUND


def _children(parent: int) -> list[str]:
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


def _wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{each}/cmdline").exists() for each in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_one_ranks_own_error_ends_all(workspace: Workspace, tmp_path: Path) -> None:
    """The classifier to start from lies in the main rank's folder only; the main rank then waits for the other."""
    for number in "01":
        (tmp_path / number).mkdir()
    (tmp_path / "0" / "here").symlink_to((workspace.folder / "predictor" / "latest").resolve())
    command = ["train-classifier", "--network", "resnet8", "--width", "0.5", "--steps", "5", "--init-from", "here"]
    place = ["--workspace", str(workspace.folder), "--out", str(tmp_path / "out")]
    (tmp_path / "commands.json").write_text(json.dumps([["call", "elsewhere", str(tmp_path), *command, *place]]))
    begun = time.monotonic()
    done = two_ranks("tests/support/ranked_script.py", tmp_path / "commands.json")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "error: rank 1: here/card.json is missing" in done.stderr
    assert time.monotonic() - begun < 120

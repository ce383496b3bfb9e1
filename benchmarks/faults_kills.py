"""Signals at random moments, then the same command: the files of an undisturbed run, for every command that writes.

    python benchmarks/faults_kills.py                          20 signals a command, some minutes
    python benchmarks/faults_kills.py --kills 100 --commands sample,distill
    python benchmarks/faults_kills.py --small                  some seconds

Each trial works on a copy of one small workspace.  SIGKILL, SIGTERM and SIGINT in turn go to the whole process group
at a moment drawn from the length of an undisturbed run.  After at most four of them the command runs to its end, and
the workspace must hold the same files with the same bytes; only what differs between undisturbed runs as well (times
in records and logs, the page of the report) is compared by name, and weights and shards are never among that.  Counted
are signals survived, files that are lost, left over or otherwise, tracebacks, and processes that outlive their parent.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130}}
IN_A_ROW = 4  # signals before a run to the end
NEVER_OTHERWISE = (".safetensors", ".h5", ".pt2")
GAN = "--batch-size 8 --discriminator-width 4 --standing-batches 2"
CLASSIFIER = "--network resnet8 --width 0.25 --batch-size 16"
BASE = (  # what the workspace holds before the trials
    f"train-teacher --steps 4 --width 4 {GAN}",
    f"train-classifier --steps 6 {CLASSIFIER}",
    f"train-classifier --steps 6 --seed 3 --out W/other {CLASSIFIER}",
    "fit-filter --extractor-steps 4 --ratio-steps 6 --fakes-at-least 100 --extractor-width 4",
    "sample --nfake-per-class 12 --block-size 32 --pilot-candidates 32 --out W/f",
    "sample --nfake-per-class 24 --block-size 32 --pilot-candidates 32",
    f"train-student --steps 4 --base-width 4 {GAN}",
)
DEMO = "--folds 1 --teacher-steps 4 --student-steps 4 --classifier-steps 2 --nfake-per-class 8 --rhos 0.5,1.0"
TRIALS = {
    "train-teacher": f"--steps 12 --width 4 --seed 7 --checkpoint-every-steps 3 {GAN}",
    "train-classifier": f"--steps 30 --seed 7 --checkpoint-every-steps 6 {CLASSIFIER}",
    "fit-filter": "--extractor-steps 10 --ratio-steps 20 --fakes-at-least 100 --extractor-width 4 --seed 7",
    "sample": "--nfake-per-class 40 --block-size 32 --pilot-candidates 32 --seed 7",
    "sample --extend": "--out W/f --nfake-per-class 30 --block-size 32 --pilot-candidates 32",
    "sample --workers 2": "--nfake-per-class 40 --block-size 32 --pilot-candidates 32 --seed 8",
    "score": "W/f --predictor W/other",
    "score --nearest": "W/f",
    "score --views 128": "W/f --pooled --real-per-class 5 --predictor W/other",
    "repair": "W/broken",
    "export-fakes": "W/f --out W/e",
    "export-h5": "W/f --out W/e.h5",
    "train-student": f"--steps 12 --base-width 4 --seed 7 --checkpoint-every 3 {GAN}",
    "distill": "--steps 30 --seed 7 --checkpoint-every-steps 6 --network resnet8 --width 0.25 --batch-size 16",
    "search-rho": "--steps 6 --width 0.25 --batch-size 16 --networks resnet8 --rhos 0.5,1.0 --seeds 0",
    "evaluate": "--judge-steps 8 --images-per-class 20 --real-per-class 30",
    "export": "--out W/s.pt2",
    "import-teacher": "--arch images --checkpoint W/images",
    "import-predictor": "--arch resnet8 --checkpoint W/foreign.safetensors --normalise none --resolution 16 "
    "--channels 1",
    "demo": f"{DEMO} --workers 1",
    "report": "",
    "inspect": "W/f --plots W/plots",
}
_TINY_GAN = {"batch_size": 8, "discriminator_width": 4, "standing_batches": 2}
DEMO_SIZES: dict[str, dict[str, Any]] = {  # of its commands, which have no flag of demo
    "train-teacher": {"width": 4, **_TINY_GAN},
    "fit-filter": {"extractor_steps": 4, "ratio_steps": 6, "fakes_at_least": 100, "extractor_width": 4},
    "sample": {"block_size": 32, "pilot_candidates": 32},
    "train-student": {"base_width": 4, **_TINY_GAN},
    "evaluate": {"judge_steps": 8, "images_per_class": 8, "real_per_class": 30},
}
SMALL = ("train-classifier", "sample", "export-h5")


@dataclass
class Row:
    """What was counted for one command."""

    seconds: float  # of an undisturbed run
    signals: dict[str, int] = field(default_factory=dict)  # that met the command at work
    finished: int = 0  # runs to the end, each compared
    otherwise: list[str] = field(default_factory=list)  # files lost, left over or with other bytes
    tracebacks: int = 0
    failures: list[str] = field(default_factory=list)  # other exit codes than the signal's, or than 0 at the end
    orphans: int = 0

    @property
    def sound(self) -> bool:
        return not (self.otherwise or self.tracebacks or self.failures or self.orphans)


def main() -> int:
    """Print a row a command on stderr and one JSON object on stdout; exit code 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="signals a command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--commands", help="a,b,...: these alone")
    parser.add_argument("--small", action="store_true", help="three commands, three signals each")
    options = parser.parse_args()
    names = options.commands.split(",") if options.commands else (SMALL if options.small else TRIALS)
    kills = 3 if options.small else options.kills
    os.environ |= {"OMP_NUM_THREADS": "1", "RETORT_PROGRESS": "off"}
    _load()
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        trials = Trials(Path(place), options.seed)
        print(f"{'command':>20}  run, s  signals  compared  otherwise  tracebacks  failures  orphans", file=sys.stderr)
        for name in names:
            row = rows[name] = trials.of(name, kills)
            print(
                f"{name:>20}  {row.seconds:6.2f}  {sum(row.signals.values()):7d}  {row.finished:8d}  "
                f"{len(row.otherwise):9d}  {row.tracebacks:10d}  {len(row.failures):8d}  {row.orphans:7d}",
                *row.otherwise[:3],
                *row.failures[:2],
                file=sys.stderr,
                flush=True,
            )
    print(json.dumps({name: vars(row) for name, row in rows.items()}))
    return 0 if all(row.sound for row in rows.values()) else 1


def _load() -> None:
    """What every command imports; the runs are forked from here, where nothing is ever computed.

    The rest each first run tells (`_import_like`), so that later ones begin at once and the signals meet the work.
    """
    import torch

    import cli  # noqa: F401

    torch.set_num_threads(1)


def _import_like(child: Path) -> None:
    """Import what a run has imported."""
    for name in child.read_text().split():
        with suppress(Exception):
            importlib.import_module(name)


class Trials:
    """A small workspace, copies of it, and runs on them."""

    def __init__(self, place: Path, seed: int) -> None:
        self.base, self.work, self.said = place / "base", place / "w", place / "said"
        self.imported = place / "imported"
        self.random = random.Random(seed)
        for text in BASE:
            command, _, rest = text.partition(" ")
            self._whole(command, rest)
        _break_fakes(self.work / "f", self.work / "broken")
        _write_images(self.work / "images")
        shutil.copy(self.work / "predictor" / "latest" / "weights.safetensors", self.work / "foreign.safetensors")
        self.work.rename(self.base)

    def of(self, name: str, kills: int) -> Row:
        """Send so many signals to one command."""
        command, _, flag = name.partition(" ")
        text = f"{TRIALS[name]} {flag}"
        wanted, varying, seconds = self._undisturbed(command, text)
        row, sent = Row(seconds), 0
        while sum(row.signals.values()) < kills and sent < 5 * kills:  # some come when the command is done
            self._copy()
            for _ in range(self.random.randint(1, IN_A_ROW)):
                number = SIGNALS[sent % len(SIGNALS)]
                sent += 1
                if self._disturbed(command, text, number, self.random.uniform(0.0, seconds), row):
                    break
            code, said, _ = self._run(command, text)
            row.finished += 1
            row.tracebacks += "Traceback" in said
            if code != 0 and not _is_there(said):
                row.failures.append(f"exit code {code} of a run to the end: {said[-300:]}")
            runs = _files(self.work)
            row.otherwise += [path for path in {*wanted, *runs} if _differs(path, wanted, runs, varying)]
        return row

    def _disturbed(self, command: str, text: str, number: signal.Signals, after_s: float, row: Row) -> bool:
        """One signal; True where the command had ended before it came."""
        code, said, alive = self._run(command, text, number, after_s)
        if "Traceback" in said or "Exception ignored" in said:
            row.tracebacks += 1
            row.failures.append(said[-1500:])
        row.orphans += alive
        if code == 0 or (code == 2 and _is_there(said)):
            return True
        row.signals[number.name] = row.signals.get(number.name, 0) + 1
        if code not in ENDS[number]:
            row.failures.append(f"exit code {code} after {number.name}: {said[-300:]}")
        return False

    def _undisturbed(self, command: str, text: str) -> tuple[dict[str, str], set[str], float]:
        """The files, those that differ from run to run, and the seconds of the faster of two runs."""
        contents, times = [], []
        for _ in range(2):
            self._copy()
            time.sleep(1.1)  # records tell seconds, which have to differ between the two
            begin = time.monotonic()
            self._whole(command, text)
            times.append(time.monotonic() - begin)
            contents.append(_files(self.work))
        varying = {path for path in {*contents[0], *contents[1]} if contents[0].get(path) != contents[1].get(path)}
        if wrong := [
            path
            for path in varying
            if path.endswith(NEVER_OTHERWISE) or not (path in contents[0] and path in contents[1])
        ]:
            raise SystemExit(f"{command}: two undisturbed runs differ in {wrong}")
        return contents[0], varying, min(times)

    def _whole(self, command: str, text: str) -> None:
        code, said, _ = self._run(command, text)
        if code != 0:
            raise SystemExit(f"{command} {text}: exit code {code}\n{said}")
        _import_like(self.imported)

    def _copy(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.base, self.work, symlinks=True)

    def _run(
        self, command: str, text: str, number: signal.Signals | None = None, after_s: float = 0.0
    ) -> tuple[int, str, bool]:
        """(exit code, what it said, whether a process of its group outlived it)."""
        workspace = self.work / "demo" if command == "demo" else self.work  # which has to be its own
        words = [command, *text.replace("W/", f"{self.work}/").split(), "--workspace", str(workspace)]
        child = os.fork()
        if child == 0:
            _become(words, self.said, self.imported)
        with suppress(OSError):  # the child may be quicker
            os.setpgid(child, child)
        if number is not None:
            _wait(child, after_s)
            with suppress(ProcessLookupError):
                os.killpg(child, number)
        _, status = os.waitpid(child, 0)
        alive = _outlived(child)
        return os.waitstatus_to_exitcode(status), self.said.read_text(errors="replace"), alive


def _is_there(said: str) -> bool:
    """Whether the command only said that what it writes, and never replaces, is there: a signal came after the end."""
    return said.startswith("error: --out ") and said.endswith((" new file.\n", " new folder.\n"))


def _become(words: list[str], said: Path, imported: Path) -> None:
    """In a forked child: be the command; does not return."""
    code = 99
    try:
        os.setpgid(0, 0)
        handle = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(ROOT)
        sys.argv = ["cli.py", *words]
        import cli
        from runtime import signals

        if words[0] == "demo":
            _shrink_demo()
        code = cli.main()
        signals.end_at_once()
        sys.stdout.flush()
        sys.stderr.flush()
        imported.write_text("\n".join(name for name in sys.modules if name != "__main__"))
    except KeyboardInterrupt as error:  # before the command had begun, or after it had ended
        code = 143 if type(error).__name__ == "Terminated" else 130
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _shrink_demo() -> None:
    for name in ("commands.reporting.demo_work", "commands.support.compared_parts"):
        module: Any = importlib.import_module(name)
        module.call = partial(_smaller, module.call)


def _smaller(call: Any, command: str, **given: Any) -> Any:
    return call(command, **{**DEMO_SIZES.get(command, {}), **given})


def _wait(child: int, seconds: float) -> None:
    """Until then, or until the child has ended (it is not collected)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(min(0.005, max(0.0, end - time.monotonic())))


def _outlived(group: int) -> bool:
    """Whether a process of the group is there ten seconds after its leader has gone; it is then killed."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    return True


def _files(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file, and of links where they lead.  Locks, which stay, are no files."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            contents[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            contents[name] = "folder"
        elif not path.name.endswith("lock"):
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _differs(path: str, wanted: dict[str, str], contents: dict[str, str], varying: set[str]) -> bool:
    if path in varying:
        return path not in contents
    return wanted.get(path) != contents.get(path)


def _break_fakes(whole: Path, broken: Path) -> None:
    """A copy of the fakes in which one shard has a changed byte and one is gone."""
    shutil.copytree(whole, broken)
    first, second = sorted((broken / "shards").glob("*.h5"))[:2]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(bytes(data))
    second.unlink()


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    draw: Callable[..., Any] = np.random.default_rng(0).integers
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = draw(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


if __name__ == "__main__":
    sys.exit(main())

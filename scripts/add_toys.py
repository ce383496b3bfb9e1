"""Adds a toy of each kind to a copy of this repository, as CONTRIBUTING.md says, and tries it there.

Usage: python scripts/add_toys.py [FOLDER of the copy; a temporary one by default]

Prints the files that each toy touched.  Then the contract tests run on the toys, and commands run a path of toys from a
dataset to an export.  Ends with 1 where a toy touches more than two files, or a test or a command fails; about two
minutes of one core.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_FILES = 2
CONTRACTS = (  # tests that run over every entry of a registry; those of the toys are chosen by name
    "tests/commands/test_list.py::test_a_teacher_trains_or_is_refused_with_those_that_do",
    "tests/commands/test_list.py::test_a_classifier_trains",
    "tests/student_trainer/test_networks.py::test_contract",
    "tests/classifiers/test_networks.py::test_student_contract",
    "tests/training/test_distilling.py::test_contract",
    "tests/evaluation/test_metrics.py::test_contract",
    "tests/image_data/test_real.py::test_contract",
    "tests/image_data/test_exports.py::test_the_disk_that_it_needs_is_known_before",
)
WHOLE = ("tests/test_architecture.py", "tests/image_data/test_exports.py::test_a_block_is_all_that_is_read_at_once")
PATH = (
    "train-teacher --data shapes --generator dcgan --generator.width 4 --steps 20 --batch-size 16 --standing-batches 1",
    "train-classifier --data shapes --network two_convolutions --steps 40",
    "sample --filter none --nfake-per-class 100",
    "train-student --generator perceptron --generator.hidden 32 --steps 10 --batch-size 16 --standing-batches 1",
    "distill --data shapes --network two_convolutions --method logit_l2 --method.weight 0.2 --steps 10",
    "distill --data shapes --network two_convolutions --method channel_means --steps 10",
    "evaluate --data shapes --judge-steps 20 --images-per-class 50",
    "export-fakes --to csv",
    "list",
)


@dataclass(frozen=True)
class Toy:
    """One section of CONTRIBUTING.md: a new file, and a line in an old one."""

    kind: str
    name: str
    new_file: str
    code: str
    registry: str
    line: str


def toys(page: str) -> list[Toy]:
    """The sections with examples; ValueError where one is not a new file and a line."""
    found = []
    for section in re.split(r"^###? ", page, flags=re.MULTILINE):
        kind = section.split("\n", 1)[0]
        new = re.findall(r"^New file `([^`]+)`:\n\n```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        lines = re.findall(r"^One line in `([^`]+)`:\n\n```python\n(.*)\n```$", section, flags=re.MULTILINE)
        if section.count("```python") != len(new) + len(lines) or len(new) != len(lines) or len(new) > 1:
            raise ValueError(f"CONTRIBUTING.md, {kind}: give one new file, and one line in another")
        for (new_file, code), (registry, line) in zip(new, lines, strict=True):
            found.append(Toy(kind, re.findall(r'"([^"]+)"', line)[0], new_file, code, registry, line))
    return found


def copy_repository(place: Path) -> None:
    """The files under version control, and those that may come under it."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)


def add(toy: Toy, place: Path) -> list[str]:
    """Write the new file, and put the line behind the last of its kind; returns what stands differently now."""
    before = _contents(place)
    if (place / toy.new_file).exists():
        raise FileExistsError(place / toy.new_file)
    (place / toy.new_file).write_text(toy.code)
    lines = (place / toy.registry).read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if line.startswith(toy.line.split("(")[0] + "("))
    (place / toy.registry).write_text("".join([*lines[: last + 1], f"{toy.line}\n", *lines[last + 1 :]]))
    after = _contents(place)
    return sorted(name for name in after if after[name] != before.get(name))


def _contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def run(words: list[str], place: Path) -> str:
    """What the command prints; the program ends with 1 where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RETORT_PROGRESS": "off", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def test(found: list[Toy], place: Path) -> None:
    """Linters, and the contract tests; every toy must have been in at least one."""
    files = [toy.new_file for toy in found]
    run([sys.executable, "-m", "ruff", "check", *files], place)
    run([sys.executable, "-m", "ruff", "format", "--check", *files], place)
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:xdist", "-p", "no:cacheprovider"]
    chosen = run([*pytest, *CONTRACTS, "-k", " or ".join(toy.name for toy in found)], place)
    for toy in found:
        passed = re.findall(rf"::(\S+)\[\S*{toy.name}\S*\] PASSED", chosen)
        if not passed:
            sys.exit(f"no contract test ran on {toy.name}")
        print(f"{toy.name}: {', '.join(dict.fromkeys(passed))} passed")
    run([*pytest, *WHOLE], place)


def main(place: Path) -> None:
    copy_repository(place)
    found = toys((place / "CONTRIBUTING.md").read_text())
    for toy in found:
        touched = add(toy, place)
        print(f"{toy.kind}: {len(touched)} files: {', '.join(touched)} (1 line)")
        if len(touched) > MOST_FILES:
            sys.exit(f"{toy.kind} touches more than {MOST_FILES} files")
    test(found, place)
    for command in PATH:
        said = run([sys.executable, "cli.py", *command.split(), "--workspace", "toys", "--json"], place)
        print(f"python cli.py {command}: {len(said)} characters")
        if command.startswith("evaluate") and "brightness" not in json.dumps(json.loads(said)):
            sys.exit("evaluate does not tell the brightness")
    missing = [toy.name for toy in found if f'"{toy.name}"' not in said]
    if missing:
        sys.exit(f"list does not tell {', '.join(missing)}")
    print(f"{len(found)} toys, {MOST_FILES} files each at most; all of them pass, train and are listed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))

"""One flipped bit in every kind of file of a workspace: is it seen, is it harmless, or does it change a result?

For each kind of file a bit of a byte drawn by seed is flipped, the file is loaded the way the commands load it, and
what comes out is compared with what came out before.  `detected`: one sentence (a UserError, a problem that `verify`
names, or the line with which a training falls back to the checkpoint before).  `harmless`: the same value, byte for
byte.  `silent` (another value and no word) and `tracebacks` must be 0.

    python -m tests.support.faults_flips --flips 300        # makes a tiny workspace of its own; or: --workspace DIR
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from runtime.errors import UserError

CPU = torch.device("cpu")
MAKING = (  # tiny sizes and two classes, so that few files are read at each look: a minute for all of it
    "train-teacher --data DATA --steps 30 --batch-size 16 --width 4 --discriminator-width 4 --standing-batches 4",
    "train-classifier --data DATA --steps 40 --network resnet8 --width 0.5",
    "fit-filter --data DATA --extractor-steps 20 --ratio-steps 30 --fakes-at-least 500 --extractor-width 4",
    "sample --nfake-per-class 20 --rho 0.5 --block-size 64 --pilot-candidates 64",
    "train-student --steps 20 --batch-size 16 --base-width 4 --discriminator-width 4 --standing-batches 4",
    "distill --data DATA --steps 30 --width 0.5 --network resnet8 --rho 0.5",
    "search-rho --data DATA --steps 20 --width 0.5 --rhos 0.5,1.0 --seeds 0",
    "evaluate --data DATA --images-per-class 20 --judge-steps 30",
)
Look = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of file: its name, the file, and how it is loaded (a value to compare, or UserError)."""

    name: str
    path: Path
    look: Look


@dataclass
class Outcome:
    """Counts of one kind; `texts` keeps what went wrong."""

    flips: int = 0
    detected: int = 0
    harmless: int = 0
    silent: int = 0
    tracebacks: int = 0
    texts: list[str] = field(default_factory=list)


def make_workspace(folder: Path) -> None:
    """A tiny workspace with an artefact of every kind, made by the commands themselves from two kinds of digits."""
    import cli

    _write_digits(folder / "data")
    for line in MAKING:
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([*line.replace("DATA", str(folder / "data")).split(), "--workspace", str(folder)])
        if code:
            raise UserError(f"{line.split()[0]} failed in {folder}; see above.")


def _write_digits(folder: Path) -> None:
    digits = load_digits()
    for label in (0, 1):
        (folder / str(label)).mkdir(parents=True)
        for number, levels in enumerate(digits.images[digits.target == label]):
            pixels = np.kron((levels * 15).astype(np.uint8), np.ones((2, 2), np.uint8))
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")


def kinds_of(workspace: Path, extra: Path) -> Iterator[Kind]:
    """Every kind of file that the workspace holds; `extra`: a folder for checkpoints, a selection and a claim."""
    yield from _generators(workspace)
    yield from _judging(workspace)
    yield from _records(workspace)
    yield from _fakes(workspace)
    yield from _loose_files(extra)


def _generators(workspace: Path) -> Iterator[Kind]:
    from commands.support.builders import load_generator

    for kind in ("teacher", "student"):
        folder = workspace / kind / "latest"
        if (folder / "card.json").is_file():

            def look(folder: Path = folder) -> Any:
                made = load_generator(folder, CPU)
                return asdict(made.card), _weights(made.network)  # type: ignore[attr-defined]

            yield Kind(f"{kind}: card.json", folder / "card.json", look)
            yield Kind(f"{kind}: weights", folder / "weights.safetensors", look)
            yield from _seen(kind, folder)


def _judging(workspace: Path) -> Iterator[Kind]:
    from classifiers.predictor import load_classifier
    from evaluation.judge import load_judge
    from filters.fit import load_filter

    def predictor(folder: Path) -> Any:
        made = load_classifier(folder, CPU)
        return made.card, _weights(made.network)

    def density_ratio(folder: Path) -> Any:
        made = load_filter(folder, CPU)
        return made.card, _weights(made.network), _weights(made.features.network)

    def judge(folder: Path) -> Any:
        made = load_judge(folder, CPU)
        return made.card, _weights(made.network)

    loaders = {"predictor": predictor, "classifier": predictor, "filter": density_ratio, "judge": judge}
    for kind, load in loaders.items():
        folder = _newest(workspace / kind)
        if folder is not None and (folder / "card.json").is_file():
            look = partial(load, folder)
            yield Kind(f"{kind}: card.json", folder / "card.json", look)
            yield Kind(f"{kind}: weights", folder / "weights.safetensors", look)
            yield from _seen(kind, folder)


def _seen(kind: str, folder: Path) -> Iterator[Kind]:
    from image_data.seen import SEEN_FILE, read_seen

    if (folder / SEEN_FILE).is_file():

        def look() -> Any:
            found = read_seen(folder)
            return None if found is None else repr(found.parts), found.unknown if found else None

        yield Kind(f"{kind}: what it has seen", folder / SEEN_FILE, look)


def _records(workspace: Path) -> Iterator[Kind]:
    from commands.support.record import COMMAND_FILE, read_record
    from commands.support.resolving import resolve
    from runtime.safe_files import read_sealed_json

    for kind, name in (("classifier", "result.json"), ("evaluation", "result.json"), ("rho", "choice.json")):
        folder = _newest(workspace / kind)
        if folder is not None and (folder / name).is_file():
            yield Kind(f"{kind}: {name}", folder / name, partial(read_sealed_json, folder / name))
            yield Kind(f"{kind}: {COMMAND_FILE}", folder / COMMAND_FILE, partial(read_record, folder))
    rho = _newest(workspace / "rho")
    if rho is not None:
        from commands.distill import Options

        choice = rho / "choice.yaml"
        yield Kind("rho: choice.yaml", choice, lambda: resolve(Options, str(choice), {}).model_dump())
        cell = next(rho.glob("cells/*/result.json"))
        yield Kind("rho: result of a cell", cell, lambda: read_sealed_json(cell))


def _fakes(workspace: Path) -> Iterator[Kind]:
    from commands.support.record import COMMAND_FILE, record_problems
    from image_data.fake import open_fakes, verify_fakes

    folder = (workspace / "fakes" / "latest").resolve()

    def verified() -> Any:
        problems = [*record_problems(folder), *verify_fakes(folder)]
        if problems:
            raise UserError(problems[0])
        return _read()

    def _read() -> Any:
        fakes = open_fakes(folder)
        ledger = [unit.r.tobytes() for unit in fakes.ledger()]
        scores = fakes.scores()
        images = fakes.images(np.arange(len(fakes)))
        return fakes.digest, images.tobytes(), fakes.labels.tobytes(), scores.error.tobytes(), ledger

    files = {
        "manifest.json": folder / "manifest.json",
        "run.json": folder / "run.json",
        COMMAND_FILE: folder / COMMAND_FILE,
        "a shard": min((folder / "shards").glob("*.h5")),
        "scores": min((folder / "scores").rglob("*.h5")),
        "pilot": min((folder / "pilot").glob("*.h5")),
    }
    for name, path in files.items():
        yield Kind(f"fakes: {name}", path, verified)
    yield Kind("fakes: a shard, only read", files["a shard"], _read)


def _loose_files(extra: Path) -> Iterator[Kind]:
    from image_data.fake.selection import Selection
    from training.checkpoints import CheckpointFolder

    checkpoints = CheckpointFolder(extra / "checkpoints")
    for step in (10, 20):
        checkpoints.save(step, {"weight": torch.full((50,), float(step))}, {"curve": [[5, 0.5]], "best_step": step})

    def newest() -> Any:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = CheckpointFolder(extra / "checkpoints").load_latest()
        if found is None or found.step != 20:
            if said.getvalue().count("\n") == 1 and found is not None and found.tensors["weight"][0] == 10:
                raise UserError(said.getvalue().strip())
            return "another state"
        return found.scalars, found.tensors["weight"].numpy().tobytes()

    for name in ("state.json", "tensors.safetensors"):
        yield Kind(f"checkpoint: {name}", extra / "checkpoints" / "step_000000020" / name, newest)
    path = extra / "kept.safetensors"
    Selection(np.arange(100), np.arange(100) % 10, {"rho": 0.5}, "a" * 64).save(path)

    def selection() -> Any:
        found = Selection.load(path)
        return found.rows.tobytes(), found.labels.tobytes(), found.recipe, found.fakes_digest

    yield Kind("selection", path, selection)


def _newest(folder: Path) -> Path | None:
    made = sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink())
    return made[-1] if made else None


def _weights(network: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.detach().cpu().numpy().tobytes() for name, value in network.state_dict().items()}


def flip_bits(kind: Kind, flips: int, seed: int) -> Outcome:
    """Flip, load, compare, restore; so many times."""
    outcome, generator = Outcome(), random.Random(f"{seed} {kind.name}")
    whole, before = kind.path.read_bytes(), kind.look()
    try:
        for _ in range(flips):
            changed = bytearray(whole)
            place, bit = generator.randrange(len(whole)), generator.randrange(8)
            changed[place] ^= 1 << bit
            kind.path.write_bytes(changed)
            _count(outcome, kind, before, f"byte {place}, bit {bit}")
    finally:
        kind.path.write_bytes(whole)
    return outcome


def _count(outcome: Outcome, kind: Kind, before: Any, where: str) -> None:
    outcome.flips += 1
    try:
        same = kind.look() == before
    except UserError as error:
        if "\n" in str(error):
            outcome.tracebacks += 1
            outcome.texts.append(f"{kind.name}, {where}: more than one line: {error}")
        else:
            outcome.detected += 1
    except Exception as error:  # which would have been a traceback
        outcome.tracebacks += 1
        outcome.texts.append(f"{kind.name}, {where}: {type(error).__name__}: {error}")
    else:
        outcome.harmless += same
        outcome.silent += not same
        if not same:
            outcome.texts.append(f"{kind.name}, {where}: another value, and no word")


def row(name: str, found: Outcome) -> str:
    """One kind of file as a row of the Markdown table."""
    counts = (found.flips, found.detected, found.harmless, found.silent, found.tracebacks)
    return f"| {name} | " + " | ".join(map(str, counts)) + " |"


def table(outcomes: dict[str, Outcome]) -> str:
    """A Markdown table, a row for each kind of file."""
    head = ["| file | flips | detected | harmless | silent | tracebacks |", f"| --- |{' ---: |' * 5}"]
    return "\n".join([*head, *(row(name, found) for name, found in outcomes.items())])


def main() -> int:
    """Print the table, and below it whatever should not have been."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--only", default="", help="kinds of file with this in their name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = arguments.workspace or Path(name) / "w"
        if arguments.workspace is None:
            make_workspace(workspace)
        extra = Path(name) / "extra"
        print(table({}), flush=True)
        outcomes = {}
        for kind in kinds_of(workspace, extra):
            if arguments.only in kind.name:
                outcomes[kind.name] = flip_bits(kind, arguments.flips, arguments.seed)
                print(row(kind.name, outcomes[kind.name]), flush=True)
    texts = [text for found in outcomes.values() for text in found.texts]
    print(*texts, sep="\n")
    return 1 if texts else 0


if __name__ == "__main__":
    raise SystemExit(main())

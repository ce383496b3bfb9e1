"""Sampling a teacher over HTTP on this machine, against sampling the same teacher here.

    python benchmarks/serving.py            about a minute
    python benchmarks/serving.py --small    some seconds

An untrained BigGAN of 32 x 32 colour images, blocks of 256, one thread on either side, every candidate accepted.  Both
datasets are made in turns, end to end, and must have the same digest; the blocks alone are timed as well.  Then one
image at a time is asked for, alone and while eight clients ask for blocks without a pause.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import table_text
from benchmarks.untrained import biggan, class_space, save
from filters.acceptance import Acceptance
from filters.teacher_error import classification_error
from interfaces import Teacher
from runtime.engines import LocalEngine
from runtime.seeds import label_bits
from teacher_sampler import load_teacher
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import fixed_numerics

ROOT = Path(__file__).resolve().parent.parent
CLASSES, BLOCK = 4, 256
SPACE = class_space(CLASSES)


@dataclass(frozen=True)
class Parts:
    """`make_parts` over a folder or an address."""

    teacher: str

    def __call__(self) -> SamplingParts:
        teacher = load_teacher(self.teacher, torch.device("cpu"))
        return SamplingParts(teacher, None, None, Acceptance.none(), classification_error)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the command serves the teacher."""
    words = [sys.executable, "cli.py", "serve-teacher", "--teacher", str(folder), "--port", "0", "--json"]
    with subprocess.Popen([*words, "--device", "cpu"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
        process.terminate()


def seconds_of_sampling(teacher: str, per_label: int) -> tuple[float, str]:
    """Seconds end to end, and the dataset's digest."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        plan = LabelPlan.classes(SPACE, per_label)
        made = sample(Parts(teacher), plan, SamplerSettings(block_size=BLOCK), Path(folder) / "f", LocalEngine(1))
        return time.perf_counter() - begin, made.digest


def seconds_of_blocks(teacher: Teacher, blocks: int) -> float:
    """Latents and images of so many blocks."""
    labels = np.repeat(np.arange(CLASSES), BLOCK // CLASSES)
    begin = time.perf_counter()
    with fixed_numerics(SamplerSettings()):
        for number in range(blocks):
            keys = np.stack([label_bits(labels), np.arange(BLOCK) + number * BLOCK], axis=1)
            teacher.generate(teacher.latents(keys, 0), labels, keys, 0)
    return time.perf_counter() - begin


def ask(teacher: Teacher, images: int, number: int) -> float:
    """Seconds until so many images are here."""
    labels = np.arange(images) % CLASSES
    keys = np.stack([label_bits(labels), np.arange(images) + number * images], axis=1)
    begin = time.perf_counter()
    teacher.generate(teacher.latents(keys, 0), labels, keys, 0)
    return time.perf_counter() - begin


def seconds_of_one_image(address: str, asks: int, clients: int = 8, block: int = BLOCK) -> dict[str, float]:
    """Median and longest time of a request for one image, alone and beside clients that ask for blocks."""
    device, ended = torch.device("cpu"), threading.Event()

    def keep_asking(first: int) -> None:
        teacher, number = load_teacher(address, device), first
        while not ended.is_set():
            ask(teacher, block, number)
            number += clients

    own = load_teacher(address, device)
    alone = [ask(own, 1, number) for number in range(asks)]
    busy = [threading.Thread(target=keep_asking, args=(number,)) for number in range(clients)]
    for client in busy:
        client.start()
    try:
        time.sleep(2.0 * ask(own, block, 0) / clients)  # they have all asked by then
        beside = [ask(own, 1, number) for number in range(asks)]
    finally:
        ended.set()
        for client in busy:
            client.join()
    return {
        "one_image_alone_s": float(np.median(alone)),
        "one_image_beside_blocks_s": float(np.median(beside)),
        "one_image_beside_blocks_longest_s": max(beside),
    }


def compare(per_label: int, rounds: int, width: int) -> dict[str, Any]:
    """Medians over rounds, each of which runs both sides once."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = save(biggan(SPACE, 32, 3, width, torch.device("cpu")), Path(place) / "teacher")
        with served(folder) as address:
            teachers = [load_teacher(name, torch.device("cpu")) for name in (str(folder), address)]
            blocks = -(-CLASSES * per_label // BLOCK)
            for number in range(rounds):
                (here, one), (there, other) = (seconds_of_sampling(name, per_label) for name in (str(folder), address))
                if one != other:
                    raise SystemExit("sampling over HTTP gave another dataset")
                rows.append((here, there, *(seconds_of_blocks(teacher, blocks) for teacher in teachers)))
                print(f"round {number}: {here:.2f} s here, {there:.2f} s over HTTP", file=sys.stderr)
            waits = seconds_of_one_image(address, 5 * rounds)
    measured = np.array(rows)
    here, there, blocks_here, blocks_there = np.median(measured, axis=0)
    return {
        "fakes": CLASSES * per_label,
        "block": BLOCK,
        "images_per_s_here": CLASSES * per_label / here,
        "images_per_s_http": CLASSES * per_label / there,
        "ratio": float(np.median(measured[:, 0] / measured[:, 1])),
        "ratio_of_blocks": float(np.median(measured[:, 2] / measured[:, 3])),
        "blocks_here_s": blocks_here,
        "blocks_http_s": blocks_there,
        **waits,
    }


def main() -> None:
    """Print a table on stderr and one JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--width", type=int, default=16, help="channels of the teacher's last block")
    options = parser.parse_args()
    table = compare(BLOCK if options.small else 4 * BLOCK, 2 if options.small else 3, options.width)
    print(table_text(table), file=sys.stderr)
    print(json.dumps(table))


if __name__ == "__main__":
    main()

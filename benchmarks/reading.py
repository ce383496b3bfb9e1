"""Shuffled reading of fakes: mapped batches through FakeView, against one plain h5py read per item.

    python benchmarks/reading.py            60,000 images 1x16x16, then 20,000 images 3x64x64
    python benchmarks/reading.py --small

Both sides read the same random rows into batches in memory, in turns, from shards in the page cache.  The plain side
keeps all files open and reads `fake_images[row]` from contiguous storage: the fastest form of plain h5py.  `first pass`
includes the look at each shard and the check of each row against its CRC-32; `later passes` is what remains.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from image_data.fake import open_fakes
from image_data.labels import ClassLabels
from interfaces import LabelSpace, TeacherCard
from runtime.engines import LocalEngine
from teacher_sampler.plan import LabelPlan, SamplingParts
from teacher_sampler.sampler import sample
from teacher_sampler.settings import SamplerSettings

SPACE = ClassLabels(tuple(str(digit) for digit in range(10)))
BATCH = 128


class NoiseTeacher:
    """Images that cost nothing to make."""

    def __init__(self, channels: int, resolution_px: int) -> None:
        self.label_space: LabelSpace = SPACE
        self.card = TeacherCard(
            "noise", {}, resolution_px, channels, SPACE.to_json(), {}, {}, "", "none", allowed_augmentations=[]
        )

    def latents(self, keys: np.ndarray, seed: int) -> None:
        """A black box has none."""
        return None

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """Uniform noise."""
        size = self.card.resolution_px
        return torch.rand(len(labels), self.card.channels, size, size) * 2.0 - 1.0

    def candidates(self, labels: np.ndarray) -> None:
        """Without end."""
        return None


class AcceptAll:
    """No rejection."""

    needs_ratio = False

    def ceiling(self, r: np.ndarray, label: str) -> float:
        """Never asked for."""
        return 1.0

    def accept(self, uniforms: np.ndarray, r: np.ndarray, ceiling: float | np.ndarray) -> np.ndarray:
        """All."""
        return np.ones(len(r), dtype=bool)


def read_plain(folder: Path, rows: np.ndarray) -> float:
    """Seconds for the rows, one h5py read each."""
    fakes = open_fakes(folder)
    ends = np.cumsum([entry.used for entry in fakes.manifest.shards])
    files = [h5py.File(folder / "shards" / entry.name) for entry in fakes.manifest.shards]
    images = [file["fake_images"] for file in files]
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        batch = np.empty((len(rows[first : first + BATCH]), *fakes.image_shape), dtype=np.uint8)
        for place, row in enumerate(rows[first : first + BATCH].tolist()):
            shard = int(np.searchsorted(ends, row, side="right"))
            batch[place] = images[shard][row - (int(ends[shard - 1]) if shard else 0)]
    seconds = time.perf_counter() - start
    for file in files:
        file.close()
    return seconds


def read_mapped(view: Any, rows: np.ndarray) -> float:
    """Seconds for the rows, a batch at a time."""
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        view.images(rows[first : first + BATCH])
    return time.perf_counter() - start


def compare(count: int, channels: int, resolution_px: int, rounds: int) -> dict[str, Any]:
    """Images a second of each side, and their ratios; medians over rounds."""
    parts = SamplingParts(NoiseTeacher(channels, resolution_px), None, None, AcceptAll(), lambda output, labels: labels)
    rows = np.random.default_rng(0).permutation(count)
    found: dict[str, list[float]] = {"plain": [], "first pass": [], "later passes": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "f"
        sample(lambda: parts, LabelPlan.classes(SPACE, count // 10), SamplerSettings(), folder, LocalEngine(1))
        torch.set_num_threads(1)
        for _ in range(rounds):
            view = open_fakes(folder).view()
            found["plain"].append(read_plain(folder, rows))
            found["first pass"].append(read_mapped(view, rows))
            found["later passes"].append(read_mapped(view, rows))
        shards = len(open_fakes(folder).manifest.shards)
    seconds = {side: float(np.median(values)) for side, values in found.items()}
    speed = {f"{side}, images/s": count / value for side, value in seconds.items()}
    ratios = {f"{side} / plain": seconds["plain"] / seconds[side] for side in ("first pass", "later passes")}
    return {"images": f"{count} of {channels}x{resolution_px}x{resolution_px} in {shards} shards", **speed, **ratios}


def main() -> None:
    """Print tables on stderr and one JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few seconds")
    small = parser.parse_args().small
    tables = [compare(10_000 if small else 60_000, 1, 16, 3), compare(3_000 if small else 20_000, 3, 64, 3)]
    for table in tables:
        for key, value in table.items():
            print(f"{key:>24}  {value:.4g}" if isinstance(value, float) else f"{key:>24}  {value}", file=sys.stderr)
    print(json.dumps(tables))


if __name__ == "__main__":
    main()

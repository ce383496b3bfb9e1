"""Disk and memory that a run will take, known before it starts; refused where they are not there.

Disk: every accepted image of the units that are needed (the last of a label is cut by the manifest, not in its file),
the ledgers of all their candidates, and the scores.  Acceptance is the pilot's, or a guess before there is one.
Memory: a unit's arrays and a block's, for each process.  What networks need inside is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_data.fake.verify import PILOT_FOLDER
from runtime.errors import UserError
from runtime.free_space import free_disk_bytes, free_memory_bytes
from teacher_sampler.sampling.plan import RunContent

GUESSED_RATE = 1 / 3  # of candidates that a filter accepts, before the pilot tells
_MARGIN = 1.05
_DOUBT = 2.0  # standard deviations by which a label may need more candidates than expected
SHARD_BYTES, SCORES_BYTES = 13_000, 9_000  # of a file without rows: headers, manifest lines, rounding to whole pages
LEDGER_BYTES = 12  # k and r of a candidate
_PROCESS_BYTES = 400 << 20  # Python, torch and a small teacher
_UNIT_COPIES = 4  # of the accepted images: as blocks, as one array, as the file, and the unit before
_BLOCK_COPIES = 6  # of a block of float32 images, on its way to uint8 and in the filter


@dataclass(frozen=True)
class Needs:
    """Bytes on disk when the run is done, and bytes of memory while it works."""

    disk_bytes: int
    memory_bytes: int


def estimate(content: RunContent, per_label: int, rates: np.ndarray | None = None, workers: int = 1) -> Needs:
    """What sampling `per_label` fakes of each label takes.  `rates`: acceptance of each label, float64 L, if known."""
    guess = GUESSED_RATE if content.needs_ratio else 1.0
    expected = np.full(len(content.labels), guess) if rates is None else np.maximum(rates, 1e-9)
    span = content.unit_candidates
    unlucky = per_label + _DOUBT * np.sqrt(per_label * (1.0 - np.minimum(expected, 1.0)))
    by_label = np.ceil(unlucky / (expected * span))
    groups = [content.group_rows(group) for group in range(content.groups)]
    units = np.array([by_label[rows].max() for rows in groups])  # a group goes on until its last label has enough
    sizes = np.array([rows.stop - rows.start for rows in groups])
    accepted = float(sum(units[number] * span * expected[rows].sum() for number, rows in enumerate(groups)))
    candidates = float((units * sizes).sum()) * span
    pilots = len(content.labels) * int(content.settings.pilot_candidates or 0) * 4 if content.needs_ratio else 0
    files = float(units.sum()) + 2 * workers  # units in flight
    file_bytes = SHARD_BYTES + (SCORES_BYTES if content.has_predictor else 0)
    disk = accepted * row_bytes(content) + candidates * LEDGER_BYTES + files * file_bytes + pilots
    image = math.prod(content.image_shape)
    block = int(content.settings.block_size or 1)
    unit = span * content.group_size * row_bytes(content)
    memory = workers * (_PROCESS_BYTES + _UNIT_COPIES * unit + _BLOCK_COPIES * 4 * block * image)
    return Needs(math.ceil(disk), math.ceil(memory))


def row_bytes(content: RunContent) -> int:
    """Bytes of one stored image: pixels, label, k, latents, ratio, checksum and scores."""
    label = 8 * int(content.labels[0].size)
    latents = 4 * (content.latent_dimension or 0) if content.settings.store_latents else 0
    classes = content.label_space["kind"] == "classes"
    scores = (2 * len(content.label_space["names"]) if classes else label // 2) + 4 if content.has_predictor else 0
    return math.prod(content.image_shape) + label + 8 + latents + 8 + scores


def check_space(out: Path, content: RunContent, per_label: int, rates: np.ndarray | None, workers: int) -> None:
    """Raise UserError naming `out` and the numbers where disk or memory do not suffice.

    What the folder already holds of the run is counted as done: shards, pilots and its own scores, no other's.
    """
    needs = estimate(content, per_label, rates, workers)
    missing = math.ceil(_MARGIN * (needs.disk_bytes - _done_bytes(out, content)))
    free = free_disk_bytes(out)
    if missing > free:
        raise UserError(
            f"--out {out} needs about {_gigabytes(missing)} more, and its disk has {_gigabytes(free)} free; make room, "
            f"choose another folder, or ask for fewer fakes."
        )
    memory = free_memory_bytes()
    if memory is not None and needs.memory_bytes > memory:
        raise UserError(
            f"sampling into --out {out} needs about {_gigabytes(needs.memory_bytes)} of memory for {workers} "
            f"process{'es' if workers > 1 else ''}, and {_gigabytes(memory)} are free; give fewer --workers, "
            f"or smaller units or blocks in a new folder."
        )


def _done_bytes(out: Path, content: RunContent) -> int:
    folders = [out / "shards", out / PILOT_FOLDER]
    if content.has_predictor:
        folders.append(out / "scores" / content.predictor_digest)
    return sum(path.stat().st_size for folder in folders for path in folder.glob("*.h5"))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"

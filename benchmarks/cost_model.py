"""What a large dataset costs: arithmetic on measured and published speeds; nothing is run here.

Of one unit of u candidates of a label with acceptance p, on a worker that does R multiply-adds a second:

    rows      a = p u
    computing t = (u (m_G + m_r) + a m_f) / R        m_G, m_r, m_f: of generator, density ratio, predictor
    commit    s = a b / c                            b: bytes of a stored image, c: bytes hashed and packed a second
    bytes     d = a b + 12 u + (headers of two files)

A label needs n / a units, and half a unit more on average, since the last one is made whole.  Its pilot's candidates
cost the generator and the ratio, and no disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from teacher_sampler.sampling.disk_space import LEDGER_BYTES, SCORES_BYTES, SHARD_BYTES, row_bytes
from teacher_sampler.sampling.plan import RunContent


@dataclass(frozen=True)
class Networks:
    """Multiply-adds for one image."""

    generator: float
    ratio: float
    predictor: float


@dataclass(frozen=True)
class Worker:
    """A GPU or a core: multiply-adds a second that networks reach on it, bytes a second that its process commits."""

    name: str
    macs_per_s: float
    commit_bytes_per_s: float


@dataclass(frozen=True)
class Totals:
    """Of a whole dataset; `worker_s` is computing, on one worker."""

    units: float
    candidates: float
    rows: float
    worker_s: float
    commit_s: float
    disk_bytes: float

    @property
    def traffic_bytes(self) -> float:
        """To the folder, where that is elsewhere: each file is written once and read back once."""
        return 2 * self.disk_bytes

    def sustained(self, workers: int, disk_bytes_per_s: float, head_s: float) -> dict[str, float]:
        """Accepted images a second that each part alone would allow; the least of them is the bottleneck.

        `head_s`: of the process that schedules, for one unit.
        """
        return {
            "networks": workers * self.rows / self.worker_s,
            "hashing and packing": workers * self.rows / self.commit_s,
            "shared disk": disk_bytes_per_s * self.rows / self.traffic_bytes,
            "scheduling": self.rows / (self.units * head_s),
        }


def totals(content: RunContent, per_label: int, rates: np.ndarray, networks: Networks, worker: Worker) -> Totals:
    """The whole dataset of classes.  `rates`: acceptance of each planned label, float64 L, each above 0."""
    rows = rates * content.unit_candidates
    units = per_label / rows + 0.5
    accepted = float((units * rows).sum())
    pilot = len(rates) * int(content.settings.pilot_candidates or 0) if content.needs_ratio else 0
    candidates = float(units.sum()) * content.unit_candidates + pilot
    stored = accepted * row_bytes(content)
    files = SHARD_BYTES + (SCORES_BYTES if content.has_predictor else 0)
    macs = candidates * (networks.generator + networks.ratio) + accepted * networks.predictor
    return Totals(
        units=float(units.sum()),
        candidates=candidates,
        rows=accepted,
        worker_s=macs / worker.macs_per_s,
        commit_s=stored / worker.commit_bytes_per_s,
        disk_bytes=stored + float(units.sum()) * (content.unit_candidates * LEDGER_BYTES + files) + 4.0 * pilot,
    )

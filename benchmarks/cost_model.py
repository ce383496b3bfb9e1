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

from teacher_sampler.sampling.plan import RunContent
from teacher_sampler.sampling.room import LEDGER_BYTES, SCORES_BYTES, SHARD_BYTES, row_bytes


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


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class CostModel:
    """The formulas for one plan.  `rates`: acceptance of each planned label, float64 L, each above 0."""

    content: RunContent
    per_label: int
    rates: np.ndarray
    networks: Networks
    worker: Worker

    def compute_s(self, rows: float) -> float:
        """t of a unit with so many accepted rows."""
        drawn = self.content.unit_candidates * (self.networks.generator + self.networks.ratio)
        return (drawn + rows * self.networks.predictor) / self.worker.macs_per_s

    def commit_s(self, rows: float) -> float:
        """s of a unit with so many accepted rows."""
        return rows * row_bytes(self.content) / self.worker.commit_bytes_per_s

    def unit_bytes(self, rows: float) -> float:
        """d of a unit with so many accepted rows."""
        files = SHARD_BYTES + (SCORES_BYTES if self.content.has_predictor else 0)
        return rows * row_bytes(self.content) + self.content.unit_candidates * LEDGER_BYTES + files

    def pilot_s(self) -> float:
        """Of the pilot of one label."""
        pilot = int(self.content.settings.pilot_candidates or 0) if self.content.needs_ratio else 0
        return pilot * (self.networks.generator + self.networks.ratio) / self.worker.macs_per_s

    def totals(self) -> Totals:
        """The whole dataset.  Labels are alone in their groups (classes)."""
        rows = self.rates * self.content.unit_candidates
        units = self.per_label / rows + 0.5
        accepted = float((units * rows).sum())
        labels = len(self.rates)
        pilot = int(self.content.settings.pilot_candidates or 0) if self.content.needs_ratio else 0
        return Totals(
            units=float(units.sum()),
            candidates=float(units.sum()) * self.content.unit_candidates + labels * pilot,
            rows=accepted,
            worker_s=float((units * self.compute_s(rows)).sum()) + labels * self.pilot_s(),  # type: ignore[operator, arg-type]
            commit_s=float((units * self.commit_s(rows)).sum()),  # type: ignore[operator, arg-type]
            disk_bytes=float((units * self.unit_bytes(rows)).sum()) + 4.0 * labels * pilot,  # type: ignore[operator, arg-type]
        )

    def sustained(self, workers: int, disk_bytes_per_s: float, head_s: float) -> dict[str, float]:
        """Accepted images a second that each part alone would allow; the least of them is the bottleneck.

        `head_s`: of the process that schedules, for one unit.
        """
        total = self.totals()
        return {
            "networks": workers * total.rows / total.worker_s,
            "hashing and packing": workers * total.rows / total.commit_s,
            "shared disk": disk_bytes_per_s * total.rows / total.traffic_bytes,
            "scheduling": total.rows / (total.units * head_s),
        }

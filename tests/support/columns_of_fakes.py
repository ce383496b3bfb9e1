"""The columns that selections are made from, without a dataset of images behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from interfaces import LabelSpace


@dataclass
class Fakes:
    """What `select` reads of a fake dataset."""

    labels: np.ndarray
    label_space: LabelSpace
    error: np.ndarray
    output: np.ndarray | None = None
    density_ratio: np.ndarray | None = None
    sets: tuple[str, ...] = ("abc123",)
    digest: str = "d" * 64
    path: Path = Path("fakes")

    def __len__(self) -> int:
        return len(self.labels)

    def score_sets(self) -> list[str]:
        return list(self.sets)

    def score_set(self, digest: str | None = None) -> str:
        return digest or self.sets[0]

    def errors(self, digest: str | None = None) -> np.ndarray:
        return self.error

    def scores(self, digest: str | None = None) -> SimpleNamespace:
        output = np.zeros((len(self), 3)) if self.output is None else self.output
        return SimpleNamespace(output=output, error=self.error, digest=digest or self.sets[0])

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(scores={name: [] for name in self.sets}, shards=())

"""The metrics of generated images, by name.

A new metric is one file in this folder, with a class under `@METRICS.register(name)`, and one line below.  `evaluate`
then measures it; its columns stand in the printed tables and in the report, which explains it; and where it has a
direction and an error bar, the verdict on the filters reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evaluation.features import FeatureNetwork, extract
from evaluation.table import Cell, Column, Measured
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.registry import Registry
from runtime.seeds import numpy_generator

if TYPE_CHECKING:
    from evaluation.judge import Judge

PAIRWISE_IMAGES = 5000  # metrics of all pairs: larger sets are thinned by a seeded draw
Row = Mapping[str, Any]  # one set of images in the result of `evaluate`


@dataclass(frozen=True)
class ImageSets:
    """Generated images, the real ones that they are held against, and the networks that look at both."""

    fake: ImageSource
    real: ImageSource
    label_space: LabelSpace
    network: FeatureNetwork
    judge: Judge | None = None
    seed: int = 0

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 N x d of the generated, and M x d of the real images."""
        return extract(self.network, self.fake), extract(self.network, self.real)

    @cached_property
    def pairwise_features(self) -> tuple[np.ndarray, np.ndarray]:
        """At most 5,000 rows of each of `features`, drawn by the seed."""
        fake, real = self.features
        return _thinned(fake, self.seed, "fake"), _thinned(real, self.seed, "real")


class Metric(ABC):
    """One metric, of one column or several.

    `columns`: the key in a row of `evaluate` -> title, unit, format and direction.  Under that key stands a number, or
    {"value" (or "mean"), "standard_error", ...}, or None where it was refused.
    """

    columns: ClassVar[Mapping[str, Column]]
    explanation: ClassVar[str]  # for the report: what it measures, and how to read it
    needs: ClassVar[frozenset[Literal["features", "judge", "real"]]]
    error_bar: ClassVar[str] = ""  # what its error bar covers; "": it has none

    @abstractmethod
    def smallest(self, feature_width: int) -> int:
        """The smallest number of images in each set that gives a number worth reading."""

    @abstractmethod
    def measure(self, sets: ImageSets) -> dict[str, Any]:
        """The entries of the row of `evaluate`, as JSON."""

    def refusal(self, sets: ImageSets) -> str | None:
        """Why these images are not measured, with the remedy, or None."""
        if "judge" in self.needs and sets.judge is None:
            return f"{self.title} needs a judge; train one."
        smaller = min(len(sets.fake), len(sets.real)) if "real" in self.needs else len(sets.fake)
        smallest = self.smallest(sets.network.feature_width)
        return None if smaller >= smallest else self.too_few(smaller, smallest)

    def too_few(self, images: int, smallest: int) -> str:
        """The reason for refusing a set of so many images."""
        return f"{self.title} needs {smallest} or more images in each set, not {images}; give more images."

    def refused(self, sets: ImageSets, reason: str) -> dict[str, Any]:
        """The row's entries where it was refused."""
        return dict.fromkeys(self.columns)

    def protocol(self, sets: ImageSets) -> dict[str, Any]:
        """What decides the numbers beside the feature network and the counts of images."""
        return {}

    def titled(self, rows: Sequence[Row]) -> Mapping[str, Column]:
        """`columns` as these rows call for: titles and units may depend on the labels or the feature network."""
        return self.columns

    @property
    def title(self) -> str:
        """The columns' titles in one phrase."""
        return " and ".join(column.name for column in self.columns.values())

    def instruments(self, row: Row) -> tuple[Any, ...]:
        """Digests of the networks that this row's numbers come from; numbers of other networks are not compared."""
        features = row["protocol"].get("feature_network_digest") if "features" in self.needs else None
        entries = [row.get(key) for key in self.columns]
        return features, *(entry.get("judge_digest") if isinstance(entry, Mapping) else None for entry in entries)


METRICS: Registry[type[Metric]] = Registry("metric")
METRICS.declare("frechet_distance", "evaluation.metrics.frechet_distance")
METRICS.declare("kernel_distance", "evaluation.metrics.kernel_distance")
METRICS.declare("label_agreement", "evaluation.metrics.label_agreement")
METRICS.declare("precision_recall", "evaluation.metrics.precision_recall")


def all_metrics() -> dict[str, Metric]:
    """Every metric by name, in the order of the tables' columns: that of the names."""
    return {name: METRICS.get(name)() for name in METRICS}


def cell(row: Row, key: str) -> Cell:
    """The table's cell of a column's entry; None where it was not measured."""
    entry = row.get(key)
    if isinstance(entry, Mapping):
        return Measured(entry["value"] if "value" in entry else entry["mean"], entry.get("standard_error"))
    return entry


def _thinned(features: np.ndarray, seed: int, role: str) -> np.ndarray:
    if len(features) <= PAIRWISE_IMAGES:
        return features
    rows = numpy_generator(seed, "pairwise", role).permutation(len(features))[:PAIRWISE_IMAGES]
    return features[np.sort(rows)]

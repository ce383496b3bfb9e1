"""What a report may hold.  Every part is optional; a section without parts is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from evaluation.table import Column, Measured, Table

Tone = Literal["good", "mixed", "bad", "plain"]
GridRole = Literal["real", "accepted", "rejected", "filtered out", "student", "other"]


@dataclass(frozen=True)
class ImageGrid:
    """uint8 N x C x H x W, and the row label of each image; images of one label stand in one row.

    `caption` replaces the explanation that the report gives for the grid's `role`.
    """

    title: str
    images: np.ndarray
    labels: Sequence[str]
    role: GridRole = "other"
    caption: str = ""
    columns: int = 8


@dataclass(frozen=True)
class Histogram:
    """Distributions of one quantity, name -> values, e.g. the density ratio on fakes and on held-out real images.

    `means` and `counts` stand in for those of the values, where the values are a summary of more.
    """

    title: str
    quantity: str
    series: Mapping[str, np.ndarray]
    caption: str = ""
    marks: Mapping[str, float] = field(default_factory=dict)  # named vertical lines, e.g. the ceiling M
    means: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """The distribution of one quantity for each class or range of labels, with an optional cut for each."""

    title: str
    quantity: str
    groups: Mapping[str, np.ndarray]
    caption: str = ""
    cuts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """One number for each label, times `scale`: bars for a few labels, a line over their rank for many."""

    title: str
    quantity: str
    values: Mapping[str, float]
    caption: str = ""
    scale: float = 1.0
    marks: Mapping[str, float] = field(default_factory=dict)  # named lines, e.g. the median


@dataclass(frozen=True)
class RhoCurve:
    """Validation score over rho, lower is better: means with bars, and the means of each student.

    bars: what they are.  baseline: the score of rho 1, where the bars are those of the difference to it.
    dropped: rhos that left a race, measured with fewer seeds.
    """

    measure: str
    rhos: Sequence[float]
    means: Sequence[float]
    errors: Sequence[float]
    chosen: float | None = None
    by_student: Mapping[str, Sequence[float]] = field(default_factory=dict)  # NaN: not measured
    caption: str = ""
    bars: str = "one standard error over seeds"
    baseline: float | None = None
    dropped: Sequence[float] = ()
    resolved: bool = True

    @staticmethod
    def of_choice(choice: Mapping[str, Any], measure: str = "validation error", scale: float = 1.0) -> RhoCurve:
        """From the choice that a rho search wrote, also by an earlier version; rhos without a mean are left out."""
        lines = [line for line in choice["lines"] if line["mean"] is not None]
        several = choice["students"] if len(choice["students"]) > 1 else ()
        rhos = [line["rho"] for line in lines]
        if "format" not in choice:
            return RhoCurve(
                measure,
                rhos,
                [scale * line["mean"] for line in lines],
                [scale * line["standard_error"] for line in lines],
                choice["rho"],
                {name: [scale * line["by_student"].get(name, math.nan) for line in lines] for name in several},
            )
        baseline = next(line["mean"] for line in lines if line["rho"] == 1)
        return RhoCurve(
            measure,
            rhos,
            # Of a rho that ran fewer seeds, the difference to rho 1 on these is what can be compared.
            [scale * (baseline + (line["difference"] or 0.0)) for line in lines],
            [math.nan if line["half"] is None else scale * line["half"] for line in lines],
            choice["rho"],
            {name: [math.nan if line["dropped"] else scale * line["by_student"][name] for line in lines]
             for name in several},
            bars=f"{choice['confidence']:.0%} interval to rho 1, seeds x images",
            baseline=scale * baseline,
            dropped=[line["rho"] for line in lines if line["dropped"]],
            resolved=choice["resolved"],
        )  # fmt: skip


@dataclass(frozen=True)
class Intervals:
    """One metric of several sets of images side by side, with error bars; numbers as in its table's column."""

    column: Column
    values: Mapping[str, Measured]
    caption: str = ""

    @property
    def title(self) -> str:
        """The plot's heading."""
        return f"{self.column.name[:1].upper()}{self.column.name[1:]} with its error bar"


@dataclass(frozen=True)
class Curve:
    """Curves: name -> (x, y), of a training, or of a few points with error bars."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    caption: str = ""
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of the points; those named are drawn as dots
    logarithmic: bool = False  # the x axis


@dataclass(frozen=True)
class Stage:
    """One step of the way of the data: what it is, and how many images came through."""

    name: str
    count: str
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """All parts of a report, in the order of the page."""

    title: str = "Retort report"
    subtitle: str = ""
    verdict: str = ""
    verdict_tone: Tone = "plain"
    verdict_details: Sequence[str] = ()
    stages: Sequence[Stage] = ()
    grids: Sequence[ImageGrid] = ()
    methods: Sequence[Table] = ()
    methods_lead: str = ""  # what the methods are; by default those of cGAN-KD
    method_plots: Sequence[Intervals | Curve] = ()
    warnings: Sequence[str] = ()  # about the fakes, one sentence each
    filter_quality: Table | None = None  # an independent measure before and after each filter
    density_ratio: Histogram | None = None
    ranked: Sequence[Ranked] = ()  # acceptance and clipped mass of each label
    errors: Spread | None = None
    ratio_means: Table | None = None  # of the density ratio, beside what theory says
    distances: Histogram | None = None  # to the nearest training image
    notes: Sequence[str] = ()  # what is not shown, and which command makes it
    acceptance: Table | None = None  # per label: accepted share, clipped mass, mean ratio, error
    nearest: Table | None = None  # memorisation and near-duplicates
    nearest_grid: ImageGrid | None = None  # the fakes nearest to a training image, beside it
    quality: Table | None = None
    metric_guide: Mapping[str, str] = field(default_factory=dict)  # column titles -> how to read them
    metric_plots: Sequence[Intervals] = ()
    costs: Table | None = None
    curves: Sequence[Curve] = ()
    rho: RhoCurve | None = None
    protocol: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()

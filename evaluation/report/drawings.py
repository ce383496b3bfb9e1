"""What the plots of a report draw, on axes of any palette.

Names come from users: they are shortened, and drawn without mathematics markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evaluation.report.data import Curve, Histogram, Intervals, Ranked, RhoCurve, Spread
from evaluation.table import thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Plotted = Histogram | Spread | Ranked | RhoCurve | Curve | Intervals

SERIES_COLOURS = 6
BARS_AT_MOST = 30  # labels that get a bar each; more are drawn as one line over their rank
DASHES: Any = ["-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 3))]
_NAME_LENGTH, _POINTS = 22, 400


@dataclass(frozen=True)
class Palette:
    """Colours of a plot."""

    ink: str
    muted: str
    line: str
    paper: str
    series: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """What to draw on new axes, how high, its title and its legend (name, note, number of the colour)."""

    draw: Callable[[Axes, Palette], None]
    height_in: float
    title: str
    kind: str
    grid_axis: Literal["x", "y"] = "y"
    legend: Sequence[tuple[str, str, int]] = ()


def drawing_of(part: Plotted) -> Drawing:
    """The drawing of any part of a report that is a plot."""
    if isinstance(part, Histogram):
        return _histogram(part)
    if isinstance(part, Spread):
        return _spread(part)
    if isinstance(part, Ranked):
        return _ranked(part)
    if isinstance(part, RhoCurve):
        return _rho(part)
    return _intervals(part) if isinstance(part, Intervals) else _curve(part)


def _histogram(histogram: Histogram) -> Drawing:
    """Density of each series over shared bins; values beyond the 99.5 % point are drawn in the last bin."""
    series = {name: _finite(values) for name, values in histogram.series.items()}
    pooled = np.concatenate([values for values in series.values() if len(values)] or [np.zeros(1)])
    low, high = float(pooled.min()), float(np.quantile(pooled, 0.995))
    low, high = min([low, *histogram.marks.values()]), max([high, *histogram.marks.values()])
    low = 0.0 if 0.0 <= low < 0.3 * high else low
    high = high if high > low else low + 1.0
    bins = np.linspace(low, high, 41)

    def draw(axes: Axes, paint: Palette) -> None:
        for index, (name, values) in enumerate(series.items()):
            if not len(values):
                continue
            density, _ = np.histogram(np.clip(values, low, high), bins=bins, density=True)
            colour = paint.series[index % SERIES_COLOURS]
            axes.stairs(density, bins, fill=True, color=colour, alpha=0.07)
            axes.stairs(density, bins, color=colour, linewidth=1.6, linestyle=DASHES[index % len(DASHES)])
            mean = histogram.means.get(name, float(values.mean()))
            axes.plot([min(mean, high)], [0], marker="^", color=colour, markersize=6, clip_on=False, zorder=5)
        top = axes.get_ylim()[1]
        for mark, value in histogram.marks.items():
            axes.axvline(value, color=paint.muted, linewidth=1, linestyle=(0, (3, 3)))
            side = "left" if value < (low + high) / 2 else "right"
            axes.text(value, top, f" {short(mark)} ", color=paint.muted, ha=side, va="top", fontsize=8.5)
        axes.set_xlim(low, high)
        axes.set_ylim(0, top * 1.02)
        axes.set_yticks([])
        axes.set_xlabel(histogram.quantity)
        axes.set_ylabel("density")

    legend = []
    for index, (name, values) in enumerate(series.items()):
        mean = histogram.means.get(name, float(values.mean()) if len(values) else math.nan)
        count = histogram.counts.get(name, len(values))
        note = "no values" if math.isnan(mean) else f"mean {mean:.2f} of {thousands(count)}"
        legend.append((name, note, index % SERIES_COLOURS))
    return Drawing(draw, 2.7, histogram.title, "Histogram", legend=legend)


def _spread(spread: Spread) -> Drawing:
    """One horizontal bar for each group: 5-95 % thin, 25-75 % thick, median as a gap, the cut as a stroke."""
    groups = {name: _finite(values) for name, values in spread.groups.items()}
    filled = {name: values for name, values in groups.items() if len(values)}
    quantiles = {name: np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]) for name, values in filled.items()}
    table = np.array(list(quantiles.values())) if quantiles else np.ones((1, 5))
    logarithmic = bool(table.min() >= 0 and table[:, 4].max() > 50 * max(float(np.median(table[:, 2])), 1e-12))
    floor = max(float(table[:, 4].max()) * 1e-6, 1e-8) if logarithmic else -np.inf

    def draw(axes: Axes, paint: Palette) -> None:
        for row, (name, points) in enumerate(quantiles.items()):
            p5, p25, p50, p75, p95 = np.maximum(points, floor)
            axes.plot([p5, p95], [row, row], color=paint.series[0], linewidth=1.4, solid_capstyle="round")
            axes.plot([p25, p75], [row, row], color=paint.series[0], linewidth=6, solid_capstyle="butt")
            axes.plot([p50], [row], marker="|", color=paint.paper, markersize=7, markeredgewidth=2)
            if name in spread.cuts:
                axes.plot(
                    [max(spread.cuts[name], floor)], [row], marker="|", color=paint.series[1], markersize=12, mew=2
                )
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_yticks(range(len(quantiles)), [short(name) for name in quantiles])
        axes.set_ylim(len(quantiles) - 0.4, -0.6)
        axes.set_xlabel(spread.quantity)
        axes.tick_params(axis="y", length=0)

    return Drawing(draw, 0.8 + 0.2 * max(5, len(quantiles)), spread.title, "Distribution", grid_axis="x")


def _ranked(ranked: Ranked) -> Drawing:
    """A bar for each label, or with many labels one line over their rank with the lowest and the highest named."""
    numbers = {name: float(value) for name, value in ranked.values.items() if np.isfinite(value)}
    top = max([*numbers.values(), *ranked.marks.values(), 1e-12]) * ranked.scale

    def bars(axes: Axes, paint: Palette) -> None:
        values = np.array(list(numbers.values())) * ranked.scale
        axes.barh(range(len(values)), values, height=0.62, color=paint.series[0], alpha=0.85)
        axes.set_yticks(range(len(values)), [short(name) for name in numbers])
        axes.set_ylim(max(len(values), 5) - 0.4, -0.6)
        axes.set_xlim(0, top * 1.05)
        _marks(axes, paint, vertical=True)
        axes.set_xlabel(ranked.quantity)

    def line(axes: Axes, paint: Palette) -> None:
        names = sorted(numbers, key=lambda name: numbers[name])
        values = np.array([numbers[name] for name in names]) * ranked.scale
        rank = np.arange(1, len(values) + 1)
        axes.fill_between(rank, values, color=paint.series[0], alpha=0.12, linewidth=0)
        axes.plot(rank, values, color=paint.series[0], linewidth=1.6)
        axes.set_xlim(1, len(values))
        axes.set_ylim(0, top * 1.12)
        for place, offset, side in ((0, (3, 10), "left"), (len(values) - 1, (-3, 6), "right")):
            axes.annotate(
                short(names[place]), (rank[place], values[place]), offset, textcoords="offset points",
                color=paint.muted, fontsize=8.5, ha=side,
            )  # fmt: skip
        _marks(axes, paint, vertical=False)
        axes.set_xlabel(f"{len(values)} labels, from the lowest to the highest")
        axes.set_ylabel(ranked.quantity)

    def _marks(axes: Axes, paint: Palette, vertical: bool) -> None:
        for name, value in ranked.marks.items():
            rule = axes.axvline if vertical else axes.axhline
            rule(value * ranked.scale, color=paint.muted, linewidth=1, linestyle=(0, (3, 3)))
            place = (value * ranked.scale, 1.0) if vertical else (0.0, value * ranked.scale)
            transform = axes.get_xaxis_transform() if vertical else axes.get_yaxis_transform()
            axes.text(*place, f" {short(name)}", color=paint.muted, fontsize=8.5, va="bottom", transform=transform)

    if len(numbers) <= BARS_AT_MOST:
        return Drawing(bars, 0.8 + 0.2 * max(5, len(numbers)), ranked.title, "Labels", grid_axis="x")
    return Drawing(line, 2.7, ranked.title, "Labels by rank")


def _intervals(part: Intervals) -> Drawing:
    """A point with its error bar for each set of images, from top to bottom."""
    scale, rows = part.column.scale, np.arange(len(part.values))
    values = np.array([measured.value for measured in part.values.values()]) * scale
    errors = np.array([measured.error or 0.0 for measured in part.values.values()]) * scale

    def draw(axes: Axes, paint: Palette) -> None:
        axes.errorbar(
            values, rows, xerr=errors, color=paint.series[0], linestyle="none", marker="o", markersize=5, elinewidth=1.6
        )
        axes.set_yticks(rows, [short(name, 2 * _NAME_LENGTH) for name in part.values])
        axes.set_ylim(max(len(rows), 2) - 0.4, -0.6)
        direction = f"{part.column.better} is better" if part.column.better else ""
        axes.set_xlabel("; ".join(text for text in (part.column.heading, direction) if text))

    return Drawing(draw, 0.8 + 0.25 * max(2, len(rows)), part.title, "Error bars", grid_axis="x")


def _rho(curve: RhoCurve) -> Drawing:
    """Means with bars and the chosen rho ringed; rho 1 as a line, or a band of one standard error above the best."""
    order = np.argsort(curve.rhos)
    rhos, means, errors = (np.asarray(values, float)[order] for values in (curve.rhos, curve.means, curve.errors))

    def draw(axes: Axes, paint: Palette) -> None:
        errors_shown = np.nan_to_num(errors)
        if curve.baseline is not None:
            axes.axhline(curve.baseline, color=paint.muted, linestyle="--", linewidth=1.0)
        elif len(means) and np.isfinite(means).any():
            best = int(np.nanargmin(means))
            axes.axhspan(means[best], means[best] + errors_shown[best], color=paint.series[0], alpha=0.10, linewidth=0)
        axes.errorbar(
            rhos, means, errors_shown, color=paint.series[0], linewidth=1.6, marker="o", markersize=4.5, elinewidth=1.2
        )
        out = np.isin(rhos, curve.dropped)
        axes.plot(rhos[out], means[out], linestyle="", marker="x", markersize=9, color=paint.ink)
        if curve.chosen is not None and np.isclose(rhos, curve.chosen).any():
            value = float(means[np.isclose(rhos, curve.chosen)][0])
            axes.plot([curve.chosen], [value], marker="o", markersize=12, mfc="none", mec=paint.series[1], mew=2)
        for index, student_means in enumerate(curve.by_student.values()):
            dots = np.asarray(student_means, float)[order]
            axes.plot(rhos, dots, color=paint.series[1 + index % 5], linestyle=":", marker=".", linewidth=1.2)
        axes.set_xlabel("rho: share of each class that is kept")
        axes.set_ylabel(curve.measure)

    bars = "bars: " + curve.bars
    legend = [("mean", bars, 0), *((name, "", 1 + index % 5) for index, name in enumerate(curve.by_student))]
    title = "Validation score for each rho"
    if curve.baseline is not None:
        title += f": rho {curve.chosen:g} is chosen" if curve.resolved else ": not resolved, rho 1"
    return Drawing(draw, 2.9, title, "Curve", legend=legend)


def _curve(curve: Curve) -> Drawing:
    """Lines, thinned to a few hundred points each."""

    def draw(axes: Axes, paint: Palette) -> None:
        for index, (name, (x, y)) in enumerate(curve.series.items()):
            points = np.asarray(x, float), np.asarray(y, float)
            step = max(1, -(-len(points[0]) // _POINTS))
            axes.plot(
                points[0][::step],
                points[1][::step],
                color=paint.series[index % SERIES_COLOURS],
                linewidth=1.5,
                linestyle=DASHES[index % len(DASHES)],
                marker="o" if len(points[0]) == 1 else None,  # one point makes no line
            )
            if name in curve.errors:
                axes.errorbar(
                    *points, curve.errors[name], color=paint.series[index % SERIES_COLOURS],
                    linestyle="none", marker="o", markersize=4.5, elinewidth=1.2,
                )  # fmt: skip
        if curve.logarithmic:
            _logarithmic(axes, sorted({float(x) for xs, _ in curve.series.values() for x in xs}))
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)

    entries = [(name, "", index % SERIES_COLOURS) for index, name in enumerate(curve.series)]
    return Drawing(draw, 2.5, curve.title, "Training curve", legend=entries if len(entries) > 1 else ())


def _logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """Ticks where the points are, as plain numbers; 0 has its place."""
    axes.set_xscale("symlog", linthresh=min(tick for tick in ticks if tick > 0))
    axes.set_xticks(ticks, [thousands(tick) if tick >= 1 else f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """The name as printable text of at most so many characters."""
    clean = "".join(character if character.isprintable() else " " for character in name)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def _finite(values: np.ndarray | Sequence[float]) -> np.ndarray:
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat[np.isfinite(flat)]

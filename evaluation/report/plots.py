"""Plots of the parts of a report: as inline SVG that takes the page's colours, so that light and dark both read well,
and as PNG files.  Equal data, equal bytes.

For the page, matplotlib draws with stand-in colours which are then replaced by the style sheet's variables.  Text stays
text.  Names come from users: they are drawn without mathematics markup and shortened, and the SVG writer escapes them.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evaluation.report.data import Curve, GridRole, Histogram, Ranked, RhoCurve, Spread
from runtime.atomic import remove_leftovers, write_bytes
from runtime.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plotted = Histogram | Spread | Ranked | RhoCurve | Curve

SERIES_COLOURS = 6


@dataclass(frozen=True)
class Palette:
    """Colours of a plot."""

    ink: str
    muted: str
    line: str
    paper: str
    series: tuple[str, ...]


_ON_PAGE = Palette("#010101", "#020202", "#030303", "#040404", (*(f"#0{i}0{i}0{i}" for i in range(5, 10)), "#0a0a0a"))
_ON_PAPER = Palette(
    "#1b1f24", "#5d6670", "#e1e2dd", "#ffffff", ("#0d6a73", "#bb4f26", "#44559e", "#857314", "#7d3c78", "#4d5a61")
)
_STAND_INS = {_ON_PAGE.ink: "--ink", _ON_PAGE.muted: "--muted", _ON_PAGE.line: "--line", _ON_PAGE.paper: "--card"}
_STAND_INS.update({colour: f"--series-{index + 1}" for index, colour in enumerate(_ON_PAGE.series)})
_ROLE_COLOURS: dict[str, int] = {"accepted": 0, "rejected": 1, "real": 2, "filtered out": 3, "student": 4, "other": 5}
_DASHES: Any = ["-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 3))]
_WIDTH_IN, _NAME_LENGTH, _POINTS, _PNG_DPI = 5.2, 22, 400, 160
_MADE_BY = "Retort, inspect --plots"
BARS_AT_MOST = 30  # labels that get a bar each; more are drawn as one line over their rank
_SETTINGS: Any = {
    "svg.hashsalt": "retort",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawing:
    """What to draw on fresh axes, how high, its title and its legend (name -> number of the colour, dash)."""

    draw: Callable[[Axes, Palette], None]
    height_in: float
    title: str
    kind: str
    grid_axis: Literal["x", "y"] = "y"
    legend: Sequence[tuple[str, int]] = ()


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
    return _curve(part)


def _histogram(histogram: Histogram) -> Drawing:
    """Density of each series over shared bins; values beyond the 99.5 % point are drawn in the last bin."""
    found = {name: _finite(values) for name, values in histogram.series.items()}
    pooled = np.concatenate([values for values in found.values() if len(values)] or [np.zeros(1)])
    low, high = float(pooled.min()), float(np.quantile(pooled, 0.995))
    high = max([high, *histogram.marks.values()]) if histogram.marks else high
    low = 0.0 if 0.0 <= low < 0.3 * high else low
    high = high if high > low else low + 1.0
    bins = np.linspace(low, high, 41)

    def draw(axes: Axes, paint: Palette) -> None:
        for index, (name, values) in enumerate(found.items()):
            if not len(values):
                continue
            density, _ = np.histogram(np.clip(values, low, high), bins=bins, density=True)
            colour = paint.series[colour_index(name, index, histogram.roles)]
            axes.stairs(density, bins, fill=True, color=colour, alpha=0.07)
            axes.stairs(density, bins, color=colour, linewidth=1.6, linestyle=_DASHES[index % len(_DASHES)])
            mean = histogram.means.get(name, float(values.mean()))
            axes.plot([min(mean, high)], [0], marker="^", color=colour, markersize=6, clip_on=False, zorder=5)
        top = axes.get_ylim()[1]
        for mark, value in histogram.marks.items():
            axes.axvline(value, color=paint.muted, linewidth=1, linestyle=(0, (3, 3)))
            axes.text(value, top, f"{_short(mark)} ", color=paint.muted, ha="right", va="top", fontsize=8.5)
        axes.set_xlim(low, high)
        axes.set_ylim(0, top * 1.02)
        axes.set_yticks([])
        axes.set_xlabel(histogram.quantity)
        axes.set_ylabel("density")

    entries = [
        (name if mean is None else f"{name}, mean {mean:.2f}", colour_index(name, index, histogram.roles))
        for index, (name, mean, _) in enumerate(means_of(histogram))
    ]
    return Drawing(draw, 2.7, histogram.title, "Histogram", legend=entries)


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
        axes.set_yticks(range(len(quantiles)), [_short(name) for name in quantiles])
        axes.set_ylim(len(quantiles) - 0.4, -0.6)
        axes.set_xlabel(spread.quantity)
        axes.tick_params(axis="y", length=0)

    return Drawing(draw, 0.8 + 0.2 * max(5, len(quantiles)), spread.title, "Distribution", grid_axis="x")


def _ranked(ranked: Ranked) -> Drawing:
    """A bar for each label, or with many labels one line over their rank with the lowest and the highest named."""
    found = {name: float(value) for name, value in ranked.values.items() if np.isfinite(value)}
    top = max([*found.values(), *ranked.marks.values(), 1e-12]) * ranked.scale

    def bars(axes: Axes, paint: Palette) -> None:
        values = np.array(list(found.values())) * ranked.scale
        axes.barh(range(len(values)), values, height=0.62, color=paint.series[0], alpha=0.85)
        axes.set_yticks(range(len(values)), [_short(name) for name in found])
        axes.set_ylim(max(len(values), 5) - 0.4, -0.6)
        axes.set_xlim(0, top * 1.05)
        _marks(axes, paint, vertical=True)
        axes.set_xlabel(ranked.quantity)

    def line(axes: Axes, paint: Palette) -> None:
        names = sorted(found, key=lambda name: found[name])
        values = np.array([found[name] for name in names]) * ranked.scale
        rank = np.arange(1, len(values) + 1)
        axes.fill_between(rank, values, color=paint.series[0], alpha=0.12, linewidth=0)
        axes.plot(rank, values, color=paint.series[0], linewidth=1.6)
        axes.set_xlim(1, len(values))
        axes.set_ylim(0, top * 1.12)
        for place, offset, side in ((0, (3, 10), "left"), (len(values) - 1, (-3, 6), "right")):
            axes.annotate(
                _short(names[place]), (rank[place], values[place]), offset, textcoords="offset points",
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
            axes.text(*place, f" {_short(name)}", color=paint.muted, fontsize=8.5, va="bottom", transform=transform)

    if len(found) <= BARS_AT_MOST:
        return Drawing(bars, 0.8 + 0.2 * max(5, len(found)), ranked.title, "Labels", grid_axis="x")
    return Drawing(line, 2.7, ranked.title, "Labels by rank")


def _rho(curve: RhoCurve) -> Drawing:
    """Mean with one standard error; the best plus one standard error as a band; the chosen rho ringed."""
    order = np.argsort(curve.rhos)
    rhos, means, errors = (np.asarray(values, float)[order] for values in (curve.rhos, curve.means, curve.errors))

    def draw(axes: Axes, paint: Palette) -> None:
        errors_shown = np.nan_to_num(errors)
        if len(means) and np.isfinite(means).any():
            best = int(np.nanargmin(means))
            axes.axhspan(means[best], means[best] + errors_shown[best], color=paint.series[0], alpha=0.10, linewidth=0)
        axes.errorbar(
            rhos, means, errors_shown, color=paint.series[0], linewidth=1.6, marker="o", markersize=4.5, elinewidth=1.2
        )
        if curve.chosen is not None and np.isclose(rhos, curve.chosen).any():
            value = float(means[np.isclose(rhos, curve.chosen)][0])
            axes.plot([curve.chosen], [value], marker="o", markersize=12, mfc="none", mec=paint.series[1], mew=2)
        for index, (name, value) in enumerate(curve.references.items()):
            axes.axhline(value, color=paint.series[2 + index % 3], linewidth=1.2, linestyle=_DASHES[1 + index % 4])
            x = float(rhos.max()) if len(rhos) else 1.0
            axes.annotate(
                _short(name, 40),
                (x, value),
                (0, 3),
                textcoords="offset points",
                color=paint.muted,
                ha="right",
                fontsize=8.5,
            )
        axes.set_xlabel("rho: share of each class that is kept")
        axes.set_ylabel(curve.measure)

    return Drawing(draw, 2.9, "Validation score for each rho", "Curve")


def _curve(curve: Curve) -> Drawing:
    """Lines, thinned to a few hundred points each."""

    def draw(axes: Axes, paint: Palette) -> None:
        for index, (x, y) in enumerate(curve.series.values()):
            points = np.asarray(x, float), np.asarray(y, float)
            step = max(1, -(-len(points[0]) // _POINTS))
            axes.plot(
                points[0][::step],
                points[1][::step],
                color=paint.series[index % SERIES_COLOURS],
                linewidth=1.5,
                linestyle=_DASHES[index % len(_DASHES)],
            )
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)

    entries = [(name, index % SERIES_COLOURS) for index, name in enumerate(curve.series)]
    return Drawing(draw, 2.5, curve.title, "Training curve", legend=entries if len(entries) > 1 else ())


def colour_index(name: str, index: int, roles: Mapping[str, GridRole]) -> int:
    """0 .. 5: the colour of the series' role, or of its place."""
    return _ROLE_COLOURS.get(roles[name], index % SERIES_COLOURS) if name in roles else index % SERIES_COLOURS


def means_of(histogram: Histogram) -> list[tuple[str, float | None, int]]:
    """(name, mean, count) of each series, for the legend."""
    found = []
    for name, values in histogram.series.items():
        finite = _finite(values)
        mean = histogram.means.get(name, float(finite.mean()) if len(finite) else None)
        found.append((name, mean, histogram.counts.get(name, len(finite))))
    return found


def svg(part: Plotted, prefix: str) -> str:
    """A part as inline SVG; `prefix` keeps the ids of several plots apart."""
    drawing = drawing_of(part)
    stream = io.StringIO()
    _save(drawing, _ON_PAGE, stream, {"format": "svg", "metadata": {"Date": None, "Creator": None}})
    return _inline(stream.getvalue(), prefix, f"{drawing.kind}: {drawing.title}")


def write_png(part: Plotted, path: Path) -> Path:
    """A part with its title and legend as a PNG file, written in one step; parent folders are made.

    UserError where a picture of another program stands under that name.
    """
    if Path(path).exists() and _MADE_BY.encode() not in Path(path).read_bytes()[:1000]:
        raise UserError(f"{path} was not drawn by this program; give --plots another folder.")
    stream = io.BytesIO()
    how = {"format": "png", "dpi": _PNG_DPI, "metadata": {"Software": _MADE_BY}}
    _save(drawing_of(part), _ON_PAPER, stream, how, True)
    remove_leftovers(Path(path).parent, Path(path).name)
    write_bytes(Path(path), stream.getvalue())
    return Path(path)


def _save(drawing: Drawing, paint: Palette, stream: Any, how: dict[str, Any], alone: bool = False) -> None:
    """`alone` on paper: with title and legend, which the page sets itself."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has its own fonts
        extra = 0.35 + 0.2 * len(drawing.legend) if alone else 0.0
        figure: Figure = Figure(figsize=(_WIDTH_IN, drawing.height_in + extra), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.grid(axis=drawing.grid_axis, color=paint.line, linewidth=0.7)
        drawing.draw(axes, paint)
        _plain(axes, paint)
        if alone:
            _head(figure, drawing, paint)
        figure.savefig(stream, transparent=not alone, **how)


def _head(figure: Figure, drawing: Drawing, paint: Palette) -> None:
    from matplotlib.lines import Line2D

    title = _short(drawing.title, 60)
    if not drawing.legend:
        figure.suptitle(title, color=paint.ink, fontsize=11, x=0.02, ha="left")
        return
    lines = [
        Line2D([], [], color=paint.series[colour], linewidth=1.6, linestyle=_DASHES[index % len(_DASHES)])
        for index, (_, colour) in enumerate(drawing.legend)
    ]
    names = [_short(name, 50) for name, _ in drawing.legend]
    place: Any = "outside upper left"
    legend = figure.legend(lines, names, loc=place, frameon=False, fontsize=8.5, labelcolor=paint.muted, title=title)
    legend.set_alignment("left")
    legend.get_title().set(color=paint.ink, fontsize=11)


def _plain(axes: Axes, paint: Palette) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(paint.line)
    axes.tick_params(colors=paint.muted, length=3, width=0.7, which="both")
    axes.tick_params(axis="y", length=0, which="both")
    axes.xaxis.label.set_color(paint.muted)
    axes.yaxis.label.set_color(paint.muted)


def _inline(svg: str, prefix: str, title: str) -> str:
    """The drawing alone: no prolog, no metadata, no addresses, own ids, variables for colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", svg)
    for colour, variable in _STAND_INS.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("font-family: 'DejaVu Sans'; ", "")
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    label = re.sub(r"[^\w ,.:%()-]", " ", title)
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()


def _short(name: str, length: int = _NAME_LENGTH) -> str:
    clean = "".join(character if character.isprintable() else " " for character in name)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def _finite(values: np.ndarray | Sequence[float]) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    return found[np.isfinite(found)]

"""Plots as inline SVG that takes the page's colours, so that light and dark both read well; equal data, equal bytes.

matplotlib draws with stand-in colours which are then replaced by the style sheet's variables.  Text stays text.
Names come from users: they are drawn without mathematics markup and shortened, and the SVG writer escapes them.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evaluation.report.data import Curve, GridRole, Histogram, RhoCurve, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_COLOURS = 6
_INK, _MUTED, _LINE, _PAPER = "#010101", "#020202", "#030303", "#040404"
_STAND_INS = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _PAPER: "--card"}
_SERIES = [f"#0{index}0{index}0{index}" for index in range(5, 5 + SERIES_COLOURS - 1)] + ["#0a0a0a"]
_STAND_INS.update({colour: f"--series-{index + 1}" for index, colour in enumerate(_SERIES)})
_ROLE_COLOURS: dict[str, int] = {"accepted": 0, "rejected": 1, "real": 2, "filtered out": 3, "student": 4, "other": 5}
_DASHES = ["-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 3))]
_WIDTH_IN, _NAME_LENGTH, _POINTS = 5.2, 22, 400
_SETTINGS: Any = {
    "svg.hashsalt": "retort",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def histogram_svg(histogram: Histogram, prefix: str) -> str:
    """Density of each series over shared bins; values beyond the 99.5 % point are drawn in the last bin."""
    found = {name: _finite(values) for name, values in histogram.series.items()}
    pooled = np.concatenate([values for values in found.values() if len(values)] or [np.zeros(1)])
    low, high = float(pooled.min()), float(np.quantile(pooled, 0.995))
    high = max([high, *histogram.marks.values()]) if histogram.marks else high
    low = 0.0 if 0.0 <= low < 0.3 * high else low
    high = high if high > low else low + 1.0
    bins = np.linspace(low, high, 41)

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(found.items()):
            if not len(values):
                continue
            density, _ = np.histogram(np.clip(values, low, high), bins=bins, density=True)
            colour = _SERIES[colour_index(name, index, histogram.roles)]
            axes.stairs(density, bins, fill=True, color=colour, alpha=0.07)
            axes.stairs(density, bins, color=colour, linewidth=1.6, linestyle=_DASHES[index % len(_DASHES)])
            axes.plot([float(values.mean())], [0], marker="^", color=colour, markersize=6, clip_on=False, zorder=5)
        top = axes.get_ylim()[1]
        for mark, value in histogram.marks.items():
            axes.axvline(value, color=_MUTED, linewidth=1, linestyle=(0, (3, 3)))
            axes.text(value, top, f"{_short(mark)} ", color=_MUTED, ha="right", va="top", fontsize=8.5)
        axes.set_xlim(low, high)
        axes.set_ylim(0, top * 1.02)
        axes.set_yticks([])
        axes.set_xlabel(histogram.quantity)
        axes.set_ylabel("density")

    return _svg(draw, 2.7, prefix, f"Histogram: {histogram.title}")


def spread_svg(spread: Spread, prefix: str) -> str:
    """One horizontal bar for each group: 5-95 % thin, 25-75 % thick, median as a gap, the cut as a stroke."""
    groups = {name: _finite(values) for name, values in spread.groups.items()}
    filled = {name: values for name, values in groups.items() if len(values)}
    quantiles = {name: np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]) for name, values in filled.items()}
    table = np.array(list(quantiles.values())) if quantiles else np.ones((1, 5))
    logarithmic = bool(table.min() >= 0 and table[:, 4].max() > 50 * max(float(np.median(table[:, 2])), 1e-12))
    floor = max(float(table[:, 4].max()) * 1e-6, 1e-8) if logarithmic else -np.inf

    def draw(axes: Axes) -> None:
        for row, (name, points) in enumerate(quantiles.items()):
            p5, p25, p50, p75, p95 = np.maximum(points, floor)
            axes.plot([p5, p95], [row, row], color=_SERIES[0], linewidth=1.4, solid_capstyle="round")
            axes.plot([p25, p75], [row, row], color=_SERIES[0], linewidth=6, solid_capstyle="butt")
            axes.plot([p50], [row], marker="|", color=_PAPER, markersize=7, markeredgewidth=2)
            if name in spread.cuts:
                axes.plot([max(spread.cuts[name], floor)], [row], marker="|", color=_SERIES[1], markersize=12, mew=2)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_yticks(range(len(quantiles)), [_short(name) for name in quantiles])
        axes.set_ylim(len(quantiles) - 0.4, -0.6)
        axes.set_xlabel(spread.quantity)
        axes.tick_params(axis="y", length=0)

    return _svg(draw, 0.8 + 0.2 * max(5, len(quantiles)), prefix, f"Distribution: {spread.title}", grid_axis="x")


def rho_svg(curve: RhoCurve, prefix: str) -> str:
    """Mean with one standard error; the best plus one standard error as a band; the chosen rho ringed."""
    order = np.argsort(curve.rhos)
    rhos, means, errors = (np.asarray(values, float)[order] for values in (curve.rhos, curve.means, curve.errors))

    def draw(axes: Axes) -> None:
        errors_shown = np.nan_to_num(errors)
        if len(means) and np.isfinite(means).any():
            best = int(np.nanargmin(means))
            axes.axhspan(means[best], means[best] + errors_shown[best], color=_SERIES[0], alpha=0.10, linewidth=0)
        axes.errorbar(
            rhos, means, errors_shown, color=_SERIES[0], linewidth=1.6, marker="o", markersize=4.5, elinewidth=1.2
        )
        if curve.chosen is not None and np.isclose(rhos, curve.chosen).any():
            value = float(means[np.isclose(rhos, curve.chosen)][0])
            axes.plot([curve.chosen], [value], marker="o", markersize=12, mfc="none", mec=_SERIES[1], mew=2)
        for index, (name, value) in enumerate(curve.references.items()):
            axes.axhline(value, color=_SERIES[2 + index % 3], linewidth=1.2, linestyle=_DASHES[1 + index % 4])
            x = float(rhos.max()) if len(rhos) else 1.0
            axes.annotate(
                _short(name, 40), (x, value), (0, 3), textcoords="offset points", color=_MUTED, ha="right", fontsize=8.5
            )
        axes.set_xlabel("rho: share of each class that is kept")
        axes.set_ylabel(curve.measure)

    return _svg(draw, 2.9, prefix, "Validation score over rho")


def curve_svg(curve: Curve, prefix: str) -> str:
    """Lines, thinned to a few hundred points each."""

    def draw(axes: Axes) -> None:
        for index, (x, y) in enumerate(curve.series.values()):
            points = np.asarray(x, float), np.asarray(y, float)
            step = max(1, -(-len(points[0]) // _POINTS))
            axes.plot(
                points[0][::step],
                points[1][::step],
                color=_SERIES[index % SERIES_COLOURS],
                linewidth=1.5,
                linestyle=_DASHES[index % len(_DASHES)],
            )
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)

    return _svg(draw, 2.5, prefix, f"Training curve: {curve.title}")


def colour_index(name: str, index: int, roles: Mapping[str, GridRole]) -> int:
    """0 .. 5: the colour of the series' role, or of its place."""
    return _ROLE_COLOURS.get(roles[name], index % SERIES_COLOURS) if name in roles else index % SERIES_COLOURS


def means_of(series: Mapping[str, np.ndarray]) -> list[tuple[str, float | None, int]]:
    """(name, mean, count) of each series, for the legend."""
    finite = {name: _finite(values) for name, values in series.items()}
    return [(name, float(values.mean()) if len(values) else None, len(values)) for name, values in finite.items()]


def _svg(draw: Any, height_in: float, prefix: str, title: str, grid_axis: Literal["x", "y"] = "y") -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has its own fonts
        figure: Figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.grid(axis=grid_axis, color=_LINE, linewidth=0.7)
        draw(axes)
        _plain(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), prefix, title)


def _plain(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)
    axes.tick_params(colors=_MUTED, length=3, width=0.7, which="both")
    axes.tick_params(axis="y", length=0, which="both")
    axes.xaxis.label.set_color(_MUTED)
    axes.yaxis.label.set_color(_MUTED)


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

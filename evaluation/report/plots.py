"""Plots of the parts of a report: as inline SVG that takes the page's colours, so that light and dark both read well,
and as PNG or SVG files.  Equal data, equal bytes.

For the page, matplotlib draws with stand-in colours which are then replaced by the style sheet's variables.  Text stays
text, and the SVG writer escapes it.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.drawings import DASHES, Drawing, Palette, Plotted, drawing_of, short
from runtime.atomic import remove_leftovers, write_bytes
from runtime.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ON_PAGE = Palette("#010101", "#020202", "#030303", "#040404", (*(f"#0{i}0{i}0{i}" for i in range(5, 10)), "#0a0a0a"))
_ON_PAPER = Palette(
    "#1b1f24", "#5d6670", "#e1e2dd", "#ffffff", ("#0d6a73", "#bb4f26", "#44559e", "#857314", "#7d3c78", "#4d5a61")
)
_STAND_INS = {_ON_PAGE.ink: "--ink", _ON_PAGE.muted: "--muted", _ON_PAGE.line: "--line", _ON_PAGE.paper: "--card"}
_STAND_INS.update({colour: f"--series-{index + 1}" for index, colour in enumerate(_ON_PAGE.series)})
_WIDTH_IN, _PNG_DPI = 5.2, 160
_MADE_BY = "Retort, inspect --plots"
_SETTINGS: Any = {
    "svg.hashsalt": "retort",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


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
    return _write(part, Path(path), {"format": "png", "dpi": _PNG_DPI, "metadata": {"Software": _MADE_BY}})


def write_svg(part: Plotted, path: Path) -> Path:
    """The same as an SVG file, over whatever stands there."""
    return _write(part, Path(path), {"format": "svg", "metadata": {"Date": None, "Creator": "Retort"}})


def _write(part: Plotted, path: Path, how: dict[str, Any]) -> Path:
    stream = io.BytesIO()
    _save(drawing_of(part), _ON_PAPER, stream, how, True)
    remove_leftovers(path.parent, path.name)
    write_bytes(path, stream.getvalue())
    return path


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

    title = short(drawing.title, 60)
    if not drawing.legend:
        figure.suptitle(title, color=paint.ink, fontsize=11, x=0.02, ha="left")
        return
    lines = [
        Line2D([], [], color=paint.series[colour], linewidth=1.6, linestyle=DASHES[index % len(DASHES)])
        for index, (_, _, colour) in enumerate(drawing.legend)
    ]
    names = [short(f"{name}, {note}" if note else name, 60) for name, note, _ in drawing.legend]
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

"""One self-contained HTML page from `ReportData`: no address outside the file, no script, every text escaped.

Equal data give equal bytes; what differs from run to run (dates, machine) is only what `provenance` holds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.report import explanations, plots
from evaluation.report.data import ImageGrid, ReportData, RhoCurve, Spread
from evaluation.report.drawings import Plotted, drawing_of
from evaluation.report.grids import native_png
from evaluation.report.replacing import marked
from evaluation.table import Table, shown_rows
from runtime.atomic import remove_leftovers, write_text

_SHOWN_IMAGE_PX = 34  # side of an image on the page, before rounding to whole pixels of the image
_SHOWN_GRID_PX = 290
_DASHES = ("", "5 2", "1.5 2", "7 2 1.5 2", "3 1.5", "8 3")


@dataclass(frozen=True)
class ShownGrid:
    """A grid as PNG with its size on the page."""

    title: str
    role: str
    png: str
    width: int
    height: int
    names: list[str]
    alt: str
    caption: str


@dataclass(frozen=True)
class ShownPlot:
    """A drawn plot with its legend."""

    title: str
    svg: Markup
    legend: list[dict[str, Any]]
    caption: str


@dataclass(frozen=True)
class Section:
    """A headed part of the page; empty parts are left out by the template."""

    key: str
    title: str
    lead: str
    guide: Sequence[str] = ()
    warnings: Sequence[str] = ()
    grids: Sequence[ShownGrid] = ()
    first_tables: Sequence[Table] = ()
    plots: Sequence[ShownPlot] = ()
    last_tables: Sequence[Table] = ()
    last_plots: Sequence[ShownPlot] = ()
    last_grids: Sequence[ShownGrid] = ()
    notes: Sequence[str] = ()
    facts_title: str = ""
    facts: Mapping[str, str] | None = None
    lines_title: str = ""
    lines: Sequence[str] = ()
    commands: Sequence[str] = ()

    def filled(self) -> bool:
        """Whether there is anything below the heading."""
        shown = (self.grids, self.first_tables, self.plots, self.last_tables, self.last_plots, self.last_grids)
        return any((*shown, self.warnings, self.notes, self.facts, self.lines, self.commands))


def write_report(data: ReportData, out_file: Path) -> Path:
    """Write the page in one step; parent folders are made.  Returns the path."""
    out_file = Path(out_file)
    remove_leftovers(out_file.parent, out_file.name)
    write_text(out_file, marked(render(data)))
    return out_file


def render(data: ReportData) -> str:
    """The page as text."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["rows"] = shown_rows
    style = Markup((folder / "style.css.j2").read_text(encoding="utf-8"))
    sections = [section for section in _sections(data) if section.filled()]
    page = environment.get_template("page.html.j2").render(data=data, sections=sections, style=style)
    page = re.sub(r"(?<=\d) %", "\u00a0%", page)  # a number keeps its per cent sign at the end of a line
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _sections(data: ReportData) -> list[Section]:
    return [
        Section(
            "pictures",
            "The pictures",
            explanations.PICTURES,
            guide=explanations.PICTURE_QUESTIONS,
            grids=[_grid(grid) for grid in data.grids],
        ),
        Section(
            "methods",
            "The methods",
            data.methods_lead or explanations.METHODS,
            first_tables=_tables(*data.methods),
            plots=_figures("method", *data.method_plots),
        ),
        _filter_section(data),
        Section(
            "student",
            "The student generator",
            explanations.STUDENT,
            first_tables=_tables(data.quality),
            facts_title="How to read the metrics",
            facts=data.metric_guide,
            plots=_figures("metric", *data.metric_plots),
            last_tables=_tables(data.costs),
            last_plots=_figures("curve", *data.curves),
        ),
        Section("rho", "The search for rho", explanations.RHO, plots=_figures("rho", data.rho)),
        Section(
            "protocol",
            "Protocol and provenance",
            explanations.PROTOCOL,
            lines_title="How it was measured",
            lines=data.protocol,
            facts_title="Where it comes from",
            facts=data.provenance,
            commands=data.commands,
        ),
    ]


def _filter_section(data: ReportData) -> Section:
    return Section(
        "filters",
        "What the filters did",
        explanations.FILTERS,
        warnings=data.warnings,
        first_tables=_tables(data.filter_quality),
        plots=[
            *_figures("ratio", data.density_ratio, caption=explanations.RATIO_CAPTION),
            *_figures("ranked", *data.ranked),
            *_figures("errors", data.errors),
        ],
        last_tables=_tables(data.ratio_means, data.acceptance, data.nearest),
        last_plots=_figures("distances", data.distances, caption=explanations.DISTANCES_CAPTION),
        notes=data.notes,
        last_grids=[] if data.nearest_grid is None else [_grid(data.nearest_grid)],
    )


def _tables(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _figures(prefix: str, *parts: Plotted | None, caption: str = "") -> list[ShownPlot]:
    """Every plot that is there, drawn; `caption` is for those without their own."""
    figures = []
    for index, part in enumerate(parts):
        if part is None:
            continue
        if isinstance(part, RhoCurve):
            caption = explanations.RHO_CAPTION_SEEDS if part.baseline is None else explanations.RHO_CAPTION
        elif isinstance(part, Spread):
            caption = explanations.errors_caption(bool(part.cuts))
        drawing = drawing_of(part)
        legend = [
            {"name": name, "note": note, "colour": colour + 1, "dash": _DASHES[place % len(_DASHES)]}
            for place, (name, note, colour) in enumerate(drawing.legend)
        ]
        svg = Markup(plots.svg(part, f"{prefix}{index}"))
        figures.append(ShownPlot(drawing.title, svg, legend, part.caption or caption))
    return figures


def _grid(grid: ImageGrid) -> ShownGrid:
    png, names = native_png(grid)
    height, width = grid.images.shape[2:]
    scale = max(1, round(_SHOWN_IMAGE_PX / max(width, 1)))
    while scale > 1 and grid.columns * (width + 1) * scale > _SHOWN_GRID_PX + 2 * scale:
        scale -= 1
    shown_width = (grid.columns * (width + 1) - 1) * scale
    shown_height = (max(1, len(names)) * (height + 1) - 1) * scale
    return ShownGrid(
        title=grid.title,
        role=grid.role.replace(" ", "-"),
        png=base64.b64encode(png).decode(),
        width=shown_width,
        height=shown_height,
        names=names,
        alt=f"{grid.title}: {len(grid.images)} images, one row for each of {', '.join(names[:12])}",
        caption=grid.caption or explanations.GRIDS[grid.role],
    )

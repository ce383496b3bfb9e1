"""One self-contained HTML page from `ReportData`: no address outside the file, no script, every text escaped.

Equal data give equal bytes; what differs from run to run (dates, machine) is only what `provenance` holds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.report import explanations, plots
from evaluation.report.data import GridRole, Histogram, ImageGrid, ReportData
from evaluation.report.grids import native_png
from evaluation.report.replacing import marked
from evaluation.table import Column, ShownRow, Table, shown_rows, thousands
from runtime.atomic import remove_leftovers, write_text

_SHOWN_IMAGE_PX = 34  # side of an image on the page, before rounding to whole pixels of the image
_SHOWN_GRID_PX = 290
_DASHES = ("", "5 2", "1.5 2", "7 2 1.5 2", "3 1.5", "8 3")


@dataclass(frozen=True)
class ShownTable:
    """A table with formatted cells."""

    title: str
    columns: Sequence[Column]
    rows: list[ShownRow]
    caption: str


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
    first_tables: Sequence[ShownTable] = ()
    plots: Sequence[ShownPlot] = ()
    last_tables: Sequence[ShownTable] = ()
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
    style = Markup((folder / "style.css.j2").read_text(encoding="utf-8"))
    sections = [replace(s, lead=data.leads.get(s.key, s.lead)) for s in _sections(data) if s.filled()]
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
        Section("methods", "The methods", explanations.METHODS, first_tables=_tables(*data.methods)),
        _filter_section(data),
        _student_section(data),
        _rho_section(data),
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
    figures = []
    if data.density_ratio is not None:
        figures.append(_histogram(data.density_ratio, "ratio", explanations.RATIO_CAPTION))
    for index, ranked in enumerate(data.ranked):
        svg = Markup(plots.svg(ranked, f"ranked{index}"))
        figures.append(ShownPlot(ranked.title, svg, [], ranked.caption))
    if data.errors is not None:
        spread = data.errors
        caption = spread.caption or explanations.errors_caption(bool(spread.cuts))
        figures.append(ShownPlot(spread.title, Markup(plots.svg(spread, "errors")), [], caption))
    closing = []
    if data.distances is not None:
        closing.append(_histogram(data.distances, "distances", explanations.DISTANCES_CAPTION))
    return Section(
        "filters",
        "What the filters did",
        explanations.FILTERS,
        warnings=data.warnings,
        first_tables=_tables(data.filter_quality),
        plots=figures,
        last_tables=_tables(data.ratio_means, data.acceptance, data.nearest),
        last_plots=closing,
        notes=data.notes,
        last_grids=[] if data.nearest_grid is None else [_grid(data.nearest_grid)],
        facts_title="The fake dataset",
        facts=data.facts,
    )


def _student_section(data: ReportData) -> Section:
    figures = []
    for index, curve in enumerate(data.curves):
        legend = _legend([(name, "") for name in curve.series]) if len(curve.series) > 1 else []
        figures.append(ShownPlot(curve.title, Markup(plots.svg(curve, f"curve{index}")), legend, curve.caption))
    return Section(
        "student",
        "The student generator",
        explanations.STUDENT,
        first_tables=_tables(data.quality, data.costs),
        plots=figures,
        facts_title="How to read the measures",
        facts=data.metric_guide,
    )


def _rho_section(data: ReportData) -> Section:
    figures = []
    if data.rho is not None:
        svg = Markup(plots.svg(data.rho, "rho"))
        figures.append(
            ShownPlot("Validation score for each rho", svg, [], data.rho.caption or explanations.RHO_CAPTION)
        )
    return Section("rho", "The search for rho", explanations.RHO, plots=figures, last_tables=_tables(data.rho_table))


def _tables(*tables: Table | None) -> list[ShownTable]:
    return [ShownTable(t.title, t.columns, shown_rows(t), t.caption) for t in tables if t is not None]


def _histogram(histogram: Histogram, prefix: str, caption: str) -> ShownPlot:
    notes = [
        (name, "no values" if mean is None else f"mean {mean:.2f} of {thousands(count)}")
        for name, mean, count in plots.means_of(histogram)
    ]
    svg = Markup(plots.svg(histogram, prefix))
    return ShownPlot(histogram.title, svg, _legend(notes, histogram.roles), histogram.caption or caption)


def _legend(entries: Sequence[tuple[str, str]], roles: Mapping[str, GridRole] | None = None) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "note": note,
            "colour": plots.colour_index(name, index, roles or {}) + 1,
            "dash": _DASHES[index % len(_DASHES)],
        }
        for index, (name, note) in enumerate(entries)
    ]


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

"""The report: data in, one self-contained HTML page out."""

from evaluation.report.data import (
    Column,
    Curve,
    Histogram,
    ImageGrid,
    KeyFigure,
    Measured,
    Ranked,
    ReportData,
    RhoCurve,
    Spread,
    Stage,
    Table,
)
from evaluation.report.grids import grid_of, image_grid, picture_strip
from evaluation.report.page import render, write_report
from evaluation.report.plots import write_png
from evaluation.report.replacing import check_replaceable
from evaluation.report.tables import cost_table, quality_table

__all__ = [
    "Column",
    "Curve",
    "Histogram",
    "ImageGrid",
    "KeyFigure",
    "Measured",
    "Ranked",
    "ReportData",
    "RhoCurve",
    "Spread",
    "Stage",
    "Table",
    "check_replaceable",
    "cost_table",
    "grid_of",
    "image_grid",
    "picture_strip",
    "quality_table",
    "render",
    "write_png",
    "write_report",
]

"""The report: data in, one self-contained HTML page out."""

from evaluation.report.data import (
    Curve,
    Histogram,
    ImageGrid,
    KeyFigure,
    Ranked,
    ReportData,
    RhoCurve,
    Spread,
    Stage,
)
from evaluation.report.grids import grid_of, image_grid, picture_strip
from evaluation.report.page import render, write_report
from evaluation.report.plots import write_png
from evaluation.report.replacing import check_replaceable

__all__ = [
    "Curve",
    "Histogram",
    "ImageGrid",
    "KeyFigure",
    "Ranked",
    "ReportData",
    "RhoCurve",
    "Spread",
    "Stage",
    "check_replaceable",
    "grid_of",
    "image_grid",
    "picture_strip",
    "render",
    "write_png",
    "write_report",
]

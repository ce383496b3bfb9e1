"""The report: data in, one self-contained HTML page out."""

from evaluation.report.data import (
    Curve,
    Histogram,
    ImageGrid,
    Intervals,
    Ranked,
    ReportData,
    RhoCurve,
    Spread,
    Stage,
)
from evaluation.report.grids import grid_of, picture_strip
from evaluation.report.page import render, write_report
from evaluation.report.plots import write_png, write_svg
from evaluation.report.replacing import check_replaceable

__all__ = [
    "Curve",
    "Histogram",
    "ImageGrid",
    "Intervals",
    "Ranked",
    "ReportData",
    "RhoCurve",
    "Spread",
    "Stage",
    "check_replaceable",
    "grid_of",
    "picture_strip",
    "render",
    "write_png",
    "write_report",
    "write_svg",
]

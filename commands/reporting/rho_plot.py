"""The rho curve as a picture: mean validation score over rho with error bars."""

from __future__ import annotations

import io
from pathlib import Path

from classifiers.rho_choice import Choice
from runtime.atomic import write_bytes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # safe for colour-blind readers


def plot_rho(
    choice: Choice, path: Path, *, unit: str = "error, %", scale: float = 100.0, nokd: float | None = None
) -> None:
    """Write PNG or SVG, by the ending of `path`.  `nokd`: mean score of the students without fakes (unscaled)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    full = [line for line in choice.lines if line.mean is not None]
    means = [(line.mean or 0.0) * scale for line in full]
    bars = [line.standard_error * scale for line in full]
    axes.errorbar([line.rho for line in full], means, yerr=bars, marker="o", capsize=3, color="black", label="mean")
    if len(choice.students) > 1:
        for index, student in enumerate(choice.students):
            points = [(line.rho, line.by_student[student] * scale) for line in full if student in line.by_student]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.plot(*zip(*points, strict=True), linestyle=":", marker=".", color=colour, label=student)
    axes.axvline(choice.rho, color=_COLOURS[0], linewidth=1, label=f"chosen {choice.rho:.2f}")
    axes.axhline(choice.limit * scale, color="grey", linewidth=0.8, linestyle="--", label="lowest + 1 s.e.")
    if nokd is not None:
        axes.axhline(nokd * scale, color=_COLOURS[1], linewidth=1, linestyle="-.", label="NOKD")
    axes.set_xlabel("rho (share of fakes kept)")
    axes.set_ylabel(f"validation {unit}")
    axes.legend(frameon=False, fontsize=8)
    drawn = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    figure.savefig(drawn, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, drawn.getvalue())

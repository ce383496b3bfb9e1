"""How good a set of generated images is: every metric of the registry, with the whole protocol beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.features import FeatureNetwork
from evaluation.judge import Judge
from evaluation.metrics import ImageSets, all_metrics
from evaluation.metrics.registry import Row, cell
from evaluation.report.data import Intervals
from evaluation.table import Cell, Column, Measured, Table
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.digests import digest_of


def image_quality(
    fake: ImageSource,
    real: ImageSource,
    label_space: LabelSpace,
    network: FeatureNetwork,
    *,
    judge: Judge | None = None,
    real_role: str = "held-out real images",
    seed: int = 0,
) -> dict[str, Any]:
    """Compare generated with real images; everything in the result is JSON.

    `images` counts both sets; each metric adds its entries; `refused` {metric: reason} names those that were not
    measured; `protocol` has all that decides a number, and `protocol_digest` its digest.  Features are extracted in
    blocks of one fixed size, so no number depends on a batch size.
    """
    sets = ImageSets(fake, real, label_space, network, judge, seed)
    row: dict[str, Any] = {"images": {"fake": len(fake), "real": len(real)}, "refused": {}}
    protocol = {
        **network.protocol,
        "real": real_role,
        "images_fake": len(fake),
        "images_real": len(real),
        "truncation": None,  # none beyond the generator's own
    }
    for name, metric in all_metrics().items():
        reason = metric.refusal(sets)
        row |= metric.measure(sets) if reason is None else metric.refused(sets, reason)
        row["refused"] |= {} if reason is None else {name: reason}
        protocol |= metric.protocol(sets)
    return {**row, "protocol": protocol, "protocol_digest": digest_of(protocol)}


def quality_table(
    rows: Mapping[str, Row], title: str = "Quality of the images", names: Mapping[str, str] | None = None
) -> Table:
    """One line for each row of `evaluate` (under another of `names`), the columns of every metric, what was refused."""
    columns = metric_columns(list(rows.values()))
    lines: list[list[Cell]] = [
        [(names or {}).get(name, name), *(cell(row, key) for key in columns), row["images"]["fake"]]
        for name, row in rows.items()
    ]
    shown = [Column("images", numeric=False), *columns.values(), Column("N", decimals=0)]
    return Table(title, shown, lines, caption=" ".join(refusals(rows)))


def metric_columns(rows: Sequence[Row]) -> dict[str, Column]:
    """Key in a row -> column, of all metrics."""
    return {key: column for metric in all_metrics().values() for key, column in metric.titled(rows).items()}


def metric_guide(rows: Mapping[str, Row]) -> dict[str, str]:
    """Titles of a metric's columns -> how to read them."""
    guide = {}
    for metric in all_metrics().values():
        columns = metric.titled(list(rows.values())).values()
        bar = f" ± is the {metric.error_bar}." if metric.error_bar else ""
        guide[", ".join(column.name for column in columns)] = f"{metric.explanation}{bar}"
    return guide


def metric_plots(rows: Mapping[str, Row]) -> list[Intervals]:
    """The metrics that have error bars, side by side for all rows."""
    results = list(rows.values())
    return [
        Intervals(column, values)
        for metric in all_metrics().values()
        for key, column in metric.titled(results).items()
        if (values := {name: value for name, row in rows.items() if isinstance(value := cell(row, key), Measured)})
    ]


def refusals(rows: Mapping[str, Row]) -> list[str]:
    """Why numbers are missing, one sentence each."""
    reasons = {reason for row in rows.values() for reason in row.get("refused", {}).values()}
    reasons |= {row["score_refused"] for row in rows.values() if row.get("score_refused")}
    for name, metric in all_metrics().items():
        if any(name not in row.get("refused", {}) and not metric.columns.keys() & row.keys() for row in rows.values()):
            reasons.add(f"{metric.title} was not measured by this evaluation; evaluate again into a new --out.")
    return sorted(f"{reason[:1].upper()}{reason[1:]}" for reason in reasons)

"""The calibration of a dataset of fakes as the parts of a report: plots, tables, and a grid of the nearest copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evaluation.filter_effect import SIGMAS
from evaluation.quality import quality_table
from evaluation.report.calibration import Calibration, own_errors
from evaluation.report.data import Histogram, ImageGrid, Ranked, Spread
from evaluation.report.explanations import errors_caption
from evaluation.table import Column, Table
from image_data.fake.warnings import label_name
from image_data.percentiles import values_from
from image_data.real import RealData
from image_data.sources import ImageSource
from interfaces import DensityRatio

LABELS_LISTED = 20  # rows of the table of labels; of more labels the worst
_GROUPS_DRAWN = 24  # rows of the error plot; of more classes the worst and the best
_WORST_DRAWN, _BEST_DRAWN, _RANGES = 15, 5, 8
_FAKES_DRAWN = 20_000
_PAIRS_DRAWN = 8
_SAME = 1e-3  # relative difference at which two computations of one distance are taken as equal

Plots = dict[str, Histogram | Ranked | Spread]


def plots_of(known: Calibration, rho: float = 1.0) -> Plots:
    """Every plot that the dataset's numbers allow, by the name of its file."""
    drawn: dict[str, Histogram | Ranked | Spread | None] = {
        "density_ratio": ratio_histogram(known),
        "acceptance": acceptance_ranked(known),
        "clipped_mass": clipped_ranked(known),
        "errors": error_spread(known, rho),
        "training_distance": distance_histogram(known),
    }
    return {name: part for name, part in drawn.items() if part is not None}


def filter_parts(known: Calibration, data: RealData, ratio: DensityRatio | None, rho: float) -> dict[str, Any]:
    """The parts of `ReportData` that tell what the filters did; `ratio` is the filter of these fakes."""
    on_reals = {"real, validation (unseen)": real_ratios(known, data.val, ratio)}
    if known.card is not None and "ratio_percentiles" not in known.card:  # an older card: compute them again
        on_reals = {"real, training role": real_ratios(known, data.train, ratio)} | on_reals
    shown = known.to_json()
    ranked = [part for part in (acceptance_ranked(known), clipped_ranked(known)) if part is not None]
    return {
        "warnings": known.sentences,
        "notes": [f"{text[:1].upper()}{text[1:]}." for text in known.missing],
        "filter_quality": effect_table(known),
        "density_ratio": ratio_histogram(known, on_reals),
        "ratio_means": ratio_table(shown),
        "ranked": ranked if len(known.described["by_label"]) > LABELS_LISTED else [],  # else the table has bars
        "errors": error_spread(known, rho),
        "distances": distance_histogram(known),
        "acceptance": label_table(shown),
        "nearest": nearest_table(known),
        "nearest_grid": nearest_grid(known, data.train, ratio),
    }


def real_ratios(known: Calibration, source: ImageSource, ratio: DensityRatio | None) -> np.ndarray | None:
    """float32 N: the ratios of these real images; None without the filter, or where they do not fit it."""
    shape = tuple(source.images(np.arange(1)).shape[1:]) if len(source) else ()
    if ratio is None or shape != known.fakes.image_shape:
        return None
    rows = np.arange(len(source))
    blocks = [rows[start : start + 1024] for start in range(0, len(rows), 1024)]
    pieces = [ratio(torch.from_numpy(source.images(block)), source.labels[block]).numpy() for block in blocks]
    return np.concatenate(pieces) if pieces else None


def ratio_histogram(known: Calibration, on_reals: Mapping[str, np.ndarray | None] | None = None) -> Histogram | None:
    """The density ratio on all candidates, on the filter's training and held-out reals, and on more real images."""
    ratio = known.described["candidate_ratio"]
    if ratio is None:
        return None
    candidates = "fakes, all candidates"
    series = {candidates: values_from(ratio["percentiles"])}
    means, counts = {candidates: ratio["mean"]}, {candidates: known.described["candidates"]}
    card = known.card or {}
    for key, name, images in (
        ("train_reals", "real, training", "train"),
        ("held_out_reals", "real, held out for stopping", "held_out"),
    ):
        if key in card.get("ratio_percentiles", {}):
            series[name] = values_from(card["ratio_percentiles"][key])
            means[name], counts[name] = card["mean_ratio"][key], card["real_images"][images]
    series |= {name: values for name, values in (on_reals or {}).items() if values is not None}
    return Histogram("Density ratio r(x, y)", "r", series, means=means, counts=counts)


def ratio_table(shown: Mapping[str, Any]) -> Table | None:
    """Mean density ratio on candidates and real images, beside what theory says.  shown: `Calibration.to_json()`."""
    ratio, card = shown["candidate_ratio"], shown["filter"] or {}
    if ratio is None:
        return None
    columns = [
        Column("images", numeric=False),
        Column("mean r", decimals=2),
        *(Column(name, decimals=2) for name in ("5 %", "median", "95 %")),
        Column("theory says", numeric=False),
    ]
    on_reals = f"{shown['expected_ratio_on_reals']:.2f}: mean r² / mean r of the candidates"
    points = [ratio["percentiles"][place] for place in (5, 50, 95)]
    rows: list[Sequence[Any]] = [["fakes, all candidates", ratio["mean"], *points, "1"]]
    for key, name, theory in (
        ("train_reals", "real, training", "as held out"),
        ("held_out_reals", "real, held out for stopping", on_reals),
        ("held_out_fakes", "fakes drawn for fitting, held out", "1"),
    ):
        if key in card.get("mean_ratio", {}):
            spread = card.get("ratio_percentiles", {}).get(key)
            points = [spread[place] for place in (5, 50, 95)] if spread else [None] * 3
            rows.append([name, card["mean_ratio"][key], *points, theory])
    return Table("Density ratio: what it says and what theory says", columns, rows)


def acceptance_ranked(known: Calibration) -> Ranked | None:
    """Accepted share of each label; None where nothing was rejected."""
    if not known.described["rejects"]:
        return None
    values = _by_name(known, "acceptance_rate")
    text = "Share of the candidates of each label that the density ratio lets through."
    marks = {"all labels": known.described["acceptance_rate"]}
    return Ranked("Acceptance by label", "accepted, %", values, text, 100.0, marks)


def clipped_ranked(known: Calibration) -> Ranked | None:
    """Clipped mass of each label; None where there is no ceiling that clips."""
    if not known.described["rejects"] or known.described["settings"]["running_max"]:
        return None
    values = _by_name(known, "clipped_mass")
    text = "Share of the density ratios' sum that lies above the ceiling M: 0 where acceptance follows r exactly."
    marks = {"all labels": known.described["clipped_mass"]}
    return Ranked("Clipped mass by label", "clipped, %", values, text, 100.0, marks)


def _by_name(known: Calibration, key: str) -> dict[str, float]:
    space = known.described["label_space"]
    return {label_name(space, entry["label"]): float(entry[key]) for entry in known.described["by_label"]}


def error_spread(known: Calibration, rho: float = 1.0) -> Spread | None:
    """The teacher error on the accepted fakes of each label, with the cut that rho makes.

    Of many classes the worst and the best are drawn, with one row for all; many values are drawn in ranges.
    """
    from image_data.fake.describe import rows_by_label

    digest, quantiles = own_errors(known.described)
    if digest is None:
        return None
    error = known.fakes.errors(digest)
    space, labels = known.described["label_space"], [entry["label"] for entry in known.described["by_label"]]
    classes, text = space["kind"] == "classes", ""
    rows = rows_by_label(known.fakes)
    groups: dict[str, np.ndarray]
    if len(rows) <= _GROUPS_DRAWN:
        groups = {label_name(space, label): error[own] for label, own in zip(labels, rows, strict=True)}
    elif classes:
        order = sorted(range(len(rows)), key=lambda place: -quantiles[place].get("q0.5", 0.0))
        worst, best = order[:_WORST_DRAWN], order[-_BEST_DRAWN:]
        groups = {label_name(space, labels[place]): error[rows[place]] for place in worst}
        groups[f"all {len(rows):,} labels"] = error
        groups |= {label_name(space, labels[place]): error[rows[place]] for place in best}
        text = f" The {_WORST_DRAWN} labels of highest median error, all together, and the {_BEST_DRAWN} of lowest."
    else:
        order = np.lexsort(np.asarray(labels, dtype=np.float64).reshape(len(labels), -1).T[::-1]).tolist()
        parts = np.array_split(np.asarray(order), _RANGES)
        groups = {
            f"{label_name(space, labels[part[0]])} to {label_name(space, labels[part[-1]])}": error[
                np.concatenate([rows[place] for place in part])
            ]
            for part in parts
        }
    cuts = {}
    if rho < 1.0:
        cuts = {name: float(np.sort(errors)[int(np.ceil(rho * len(errors))) - 1]) for name, errors in groups.items()}
    unit = "cross entropy" if classes else f"absolute error, {space.get('unit', '')}".rstrip(", ")
    return Spread("Teacher error of accepted fakes", unit, groups, errors_caption(bool(cuts)) + text, cuts)


def label_table(shown: Mapping[str, Any], listed: int = LABELS_LISTED, *, marked: bool = False) -> Table | None:
    """Candidates, acceptance, clipped mass, mean ratio and errors of each label; of too many the `listed` worst.

    shown: `Calibration.to_json()`.  marked: with an exclamation mark before labels that a warning names.
    """
    entries, errors, space = shown["by_label"], own_errors(shown)[1], shown["label_space"]
    order, caption = list(range(len(entries))), ""
    if len(entries) > LABELS_LISTED:
        order = shown["worst_first"][:listed]
        caption = f"The worst {len(order)} of {len(entries):,} labels. "
    columns = {}
    if shown["rejects"]:
        columns = {
            "candidates": Column("candidates", decimals=0),
            "acceptance_rate": Column("accepted", "%", scale=100, bars=True),
            "ceiling": Column("ceiling M", decimals=2),
            "clipped_mass": Column("clipped mass", "%", decimals=2, scale=100),
        }
        caption += (
            f"Over all labels {100 * shown['acceptance_rate']:.1f} % of {shown['candidates']:,} candidates are "
            f"accepted, and {100 * shown['clipped_mass']:.2f} % of the ratios' mass lies above the ceilings."
        )
    if shown["candidate_ratio"] is not None:
        columns["mean_ratio"] = Column("mean r", "of candidates", decimals=2)
    if errors:
        small = max(entry.get("q0.95", 0.0) for entry in errors) < 0.5
        unit, scale = (" × 10⁻³", 1e3) if small else ("", 1.0)
        columns["q0.5"], columns["q0.95"] = (
            Column("error", f"{name}{unit}", decimals=2, scale=scale) for name in ("median", "95 %")
        )
    warned = {str(label) for one in shown["warnings"] for label in one["labels"]} if marked else set()
    rows = []
    for place in order:
        entry = {**entries[place], **(errors[place] if errors else {})}
        name = f"{'! ' if str(entry['label']) in warned else ''}{label_name(space, entry['label'])}"
        rows.append([name, entry["images"], *(entry.get(key) for key in columns)])
    head = [Column("label", numeric=False), Column("fakes", decimals=0)]
    return Table("Label by label", [*head, *columns.values()], rows, caption=caption) if columns else None


def effect_table(known: Calibration) -> Table | None:
    """The metrics of the fakes as drawn, accepted, and kept, with what each filter is worth."""
    if not known.effects:
        return None
    rows = {name: row for name, row in (known.rows or {}).items() if name != "student"}
    names = {name: f"kept by the error filter, {name.removeprefix('accepted, ')}" for name in rows}
    names["teacher"] = "as the teacher draws them"
    names["accepted"] = "accepted by the density ratio" if known.described["rejects"] else f"{names['teacher']}, stored"
    table = quality_table(rows, "Before and after each filter", names)
    verdicts = {effect.after: effect.verdict for effect in known.effects}
    columns = [*table.columns, Column("this filter", numeric=False)]
    cells = [[*cells, verdicts.get(name, "")] for name, cells in zip(rows, table.rows, strict=True)]
    deciding = " or ".join(dict.fromkeys(change.column.name for effect in known.effects for change in effect.changes))
    caption = (
        f"Measured by a judge that neither filtered nor labelled anything. A filter helps where {deciding} gets better "
        f"by {SIGMAS:g} standard errors and nothing else of these gets worse by as much; measures without an error bar "
        f"do not decide. {table.caption}"
    )
    return Table(table.title, columns, cells, caption=caption.strip())


def nearest_table(known: Calibration) -> Table | None:
    """Memorisation and near-duplicates: over all fakes, and the labels that have most of them."""
    nearest = known.described["nearest"]
    if nearest is None:
        return None
    columns = [
        Column("label", numeric=False),
        Column("nearer to a training image", "%, fresh real images: 1", scale=100, bars=True),
        Column("near-duplicates", "%, real images: 1", scale=100, bars=True),
        Column("near-duplicates", "% among all fakes", scale=100),
    ]
    keys = ("memorised_share", "duplicate_share_sparse", "duplicate_share")
    guilty = [entry for entry in nearest["by_label"] if any(entry[key] for key in keys)]
    worst = sorted(guilty, key=lambda entry: tuple(-entry[key] for key in keys))[: LABELS_LISTED // 2]
    space = known.described["label_space"]
    rows: list[Sequence[Any]] = [["all labels", *(nearest[key] for key in keys)]]
    rows += [[label_name(space, entry["label"]), *(entry[key] for key in keys)] for entry in worst]
    caption = (
        "Distances in the filter's feature space. The first share counts fakes that lie nearer to a training image "
        "than 99 % of fresh real images; the second fakes that lie nearer to another fake than 99 % of real images to "
        "another real one, among as many of each. Among all fakes the share grows with their number: that is no fault."
    )
    return Table("Memorisation and near-duplicates", columns, rows, caption=caption)


def distance_histogram(known: Calibration) -> Histogram | None:
    """Distance of each fake to its nearest training image, in units of the 1 % quantile of fresh real images."""
    from image_data.fake.distances import read_distances

    if known.described["nearest"] is None:
        return None
    values = read_distances(known.fakes).memorisation
    step = max(1, len(values) // _FAKES_DRAWN)
    marks = {"1 % of fresh reals": 1.0}
    return Histogram("Nearest training image", "distance", {"fakes": values[::step]}, marks=marks)


def nearest_grid(known: Calibration, train: ImageSource, ratio: DensityRatio | None) -> ImageGrid | None:
    """Each of the fakes nearest to a training image, beside that image; None where `train` are not those images."""
    from image_data.fake.distances import read_distances

    nearest = known.described["nearest"]
    if nearest is None or ratio is None or not nearest["nearest_pairs"]:
        return None
    fake_rows, real_rows = (
        np.array([pair[side] for pair in nearest["nearest_pairs"][:_PAIRS_DRAWN]]) for side in (0, 1)
    )
    if real_rows.max() >= len(train):
        return None
    fakes, reals = known.fakes.images(fake_rows), train.images(real_rows)
    stated = read_distances(known.fakes).training_distance[fake_rows]
    if fakes.shape != reals.shape or not _are_apart(ratio, fakes, reals, stated):
        return None
    both = np.concatenate([fakes, reals])
    labels = ["fake"] * len(fakes) + ["real"] * len(reals)
    text = (
        "The fakes that lie nearest to a training image, and below each the training image. Copies would be the same "
        "to the pixel; the same style of one label is not yet a copy."
    )
    return ImageGrid("Nearest to training images", both, labels, "accepted", text, columns=_PAIRS_DRAWN)


def _are_apart(ratio: DensityRatio, fakes: np.ndarray, reals: np.ndarray, stated: np.ndarray) -> bool:
    """Whether these pairs have the distances that the set says; if not, they are other images or another filter's."""
    phi = ratio.features  # type: ignore[attr-defined]
    a, b = (phi(torch.from_numpy(images)).double().flatten(1).cpu() for images in (fakes, reals))
    apart = (a - b).square().sum(dim=1).sqrt().numpy()
    return bool(np.allclose(apart, stated, rtol=_SAME, atol=_SAME * float(np.median(stated)) + 1e-9))

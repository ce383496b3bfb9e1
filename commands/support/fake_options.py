"""What the commands on one dataset of fakes share: the option that names it, and its description as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.options import SharedOptions
from commands.support.workspace import resolve_input

_LABELS_SHOWN = 20  # with more, so many with the worst first
_TONE = {True: "! ", False: "  "}


class FakesOptions(SharedOptions):
    """`verify DIR` and `verify --fakes DIR` are the same."""

    fakes: Path | None = Field(None, description="Folder of the fakes (the workspace's latest by default).")


def fakes_folder(options: FakesOptions) -> Path:
    """The folder asked for; never made on demand, since these commands only look."""
    from runtime.errors import UserError

    if options.fakes is None and not (options.workspace / "fakes" / "latest").exists():
        raise UserError(f"no fakes in {options.workspace}; run `python cli.py sample` first or give --fakes DIR.")
    return resolve_input("fakes", options.fakes, options)


def describe_text(result: dict[str, Any]) -> str:
    """For people: what it is, ratios, a line for each label (the worst of many), quality, warnings; --json has all."""
    parts = [_head(result), _ratios(result), _labels(result), _nearest(result), _quality(result), _kept(result)]
    parts += [_warnings(result), "\n".join(f"plot   {path}" for path in result.get("plots", []))]
    return "\n\n".join(part for part in parts if part)


def _head(result: dict[str, Any]) -> str:
    shape = " x ".join(str(side) for side in result["image_shape"])
    parents = ", ".join(f"{kind} {digest[:8]}" for kind, digest in result["parents"].items())
    lines = [
        f"{result['fakes']}  digest {result['digest'][:8]}",
        f"{result['images']:,} fakes of {shape}: {_each(result)} of each of {result['labels']:,} labels, "
        f"{result['shards']} shards, {result['bytes_on_disk'] / 1e6:.1f} MB",
        f"made from {parents}" if parents else "",
    ]
    if result["rejects"]:
        share = f"{_percent(result['acceptance_rate'])}, clipped mass {_percent(result['clipped_mass'])}"
        lines.append(f"accepted {result['accepted']:,} of {result['candidates']:,} candidates ({share})")
    else:
        lines.append(
            "every candidate was accepted" + ("" if result["candidate_ratio"] is None else "; ratios are stored")
        )
    return "\n".join(line for line in lines if line)


def _each(result: dict[str, Any]) -> str:
    """How many of each label: one number, or at most so many where all that was there was taken."""
    whole = result["per_label"] * result["labels"] == result["images"]
    return f"{'' if whole else 'at most '}{result['per_label']:,}"


def _ratios(result: dict[str, Any]) -> str:
    ratio = result["candidate_ratio"]
    if ratio is None:
        return ""
    rows = [("candidates", ratio["mean"], ratio["percentiles"], "1")]
    card = result["filter"] or {}
    spread = card.get("ratio_percentiles", {})
    expected = f"{result['expected_ratio_on_reals']:.2f} (mean r² / mean r of the candidates)"
    for name, title, theory in (
        ("train_reals", "training reals", ""),
        ("held_out_reals", "held-out reals", expected),
        ("held_out_fakes", "fakes while fitting", "1"),
    ):
        if name in card.get("mean_ratio", {}):
            rows.append((title, card["mean_ratio"][name], spread.get(name, []), theory))
    lines = [f"{'density ratio r':20s} {'mean':>6s} {'median':>7s}  {'5 to 95 %':15s} theory says"]
    for title, mean, points, theory in rows:
        middle = (
            f"{points[50]:7.2f}  {f'{points[5]:.2f} to {points[95]:.2f}':15s}" if points else f"{'-':>7s}  {'-':15s}"
        )
        lines.append(f"{title:20s} {mean:6.2f} {middle} {theory}".rstrip())
    return "\n".join(lines)


def _labels(result: dict[str, Any]) -> str:
    """One line a label; of more than twenty the worst fifteen."""
    from evaluation.report.calibration import own_errors
    from image_data.fake.warnings import label_name

    entries, errors, ratios = result["by_label"], own_errors(result)[1], result["candidate_ratio"] is not None
    if not ratios and not errors:
        return ""
    order = list(range(len(entries)))
    if len(entries) > _LABELS_SHOWN:
        order = result["worst_first"][: _LABELS_SHOWN - 5]
    warned = {str(label) for one in result["warnings"] for label in one["labels"]}
    header = f"  {'label':14s}"
    if result["rejects"]:
        header += f" {'candidates':>10s} {'accepted':>9s} {'M':>6s} {'clipped':>8s}"
    if ratios:
        header += f" {'mean r':>7s}"
    if errors:
        header += f" {'error median':>13s} {'95 %':>8s}"
    lines = [header]
    for place in order:
        entry = entries[place]
        line = _TONE[str(entry["label"]) in warned] + f"{label_name(result['label_space'], entry['label'])[:14]:14s}"
        if result["rejects"]:
            ceiling = "-" if entry["ceiling"] is None else f"{entry['ceiling']:.2f}"
            line += f" {entry['candidates']:10,d} {_percent(entry['acceptance_rate']):>9s} {ceiling:>6s}"
            line += f" {_percent(entry['clipped_mass']):>8s}"
        if ratios:
            line += f" {entry['mean_ratio']:7.2f}"
        if errors and errors[place]:
            line += f" {errors[place]['q0.5']:13.4g} {errors[place]['q0.95']:8.3g}"
        lines.append(line)
    if len(entries) > len(order):
        lines.append(f"  the worst {len(order)} of {len(entries):,} labels; --json lists all, --plots DIR draws them")
    return "\n".join(lines)


def _nearest(result: dict[str, Any]) -> str:
    found = result["nearest"]
    if found is None:
        return ""
    return (
        f"memorised {_percent(found['memorised_share'])} of the fakes (fresh real images: 1 %), near-duplicates "
        f"{_percent(found['duplicate_share_sparse'])} among as many fakes as real images (real ones: 1 %)"
    )


def _quality(result: dict[str, Any]) -> str:
    quality = result.get("quality")
    if quality is None:
        return ""
    from evaluation.quality import quality_table
    from evaluation.table import table_text

    table = table_text(quality_table(quality["rows"], names={"teacher": "as drawn"}))
    return "\n".join([table, *(one["text"] for one in quality["filters"] if one["verdict"] == "helps")])


def _kept(result: dict[str, Any]) -> str:
    kept = result.get("kept")
    if kept is None:
        return ""
    counts = [entry["images"] for entry in kept["by_label"]]
    spread = f"{min(counts):,} to {max(counts):,} of a label"
    return f"--keep {kept['keep']!r} keeps {kept['images']:,} of {kept['of']:,} fakes, {spread}"


def _warnings(result: Mapping[str, Any]) -> str:
    lines = [f"warning: {one['text']}" for one in result.get("warnings", [])]
    return "\n".join([*(lines or ["no warnings"]), *(f"note: {text}" for text in result.get("missing", []))])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

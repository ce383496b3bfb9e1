"""What the commands on one dataset of fakes share: the option that names it, and its description as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.options import SharedOptions
from commands.support.workspace import resolve_input

_WORST_LISTED = 15  # labels, where there are too many for all


class FakesOptions(SharedOptions):
    """`verify DIR` and `verify --fakes DIR` are the same."""

    fakes: Path | None = Field(None, description="Folder of the fakes (the workspace's latest by default).")


def fakes_folder(options: FakesOptions) -> Path:
    """The folder asked for; never built on demand, since these commands only look."""
    from runtime.errors import UserError

    if options.fakes is None and not (options.workspace / "fakes" / "latest").exists():
        raise UserError(f"no fakes in {options.workspace}; run `python cli.py sample` first or give --fakes DIR.")
    return resolve_input("fakes", options.fakes, options)


def describe_text(result: dict[str, Any]) -> str:
    """For people: what it is, ratios, a line for each label (the worst of many), quality, warnings; --json has all."""
    parts = [_head(result), *_tables(result), _nearest(result), _quality(result), _kept(result)]
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


def _tables(result: dict[str, Any]) -> list[str]:
    """Density ratios, and one line a label; of more than twenty the worst fifteen."""
    from evaluation.report.calibration_parts import label_table, ratio_table
    from evaluation.table import table_text

    labels = label_table(result, _WORST_LISTED, marked=True)
    texts = [table_text(table) for table in (ratio_table(result), labels) if table is not None]
    if labels is not None and len(labels.rows) < len(result["by_label"]):
        worst, every = len(labels.rows), len(result["by_label"])
        texts[-1] += f"\nthe worst {worst} of {every:,} labels; --json lists all, --plots DIR draws them"
    return texts


def _nearest(result: dict[str, Any]) -> str:
    nearest = result["nearest"]
    if nearest is None:
        return ""
    return (
        f"memorised {_percent(nearest['memorised_share'])} of the fakes (fresh real images: 1 %), near-duplicates "
        f"{_percent(nearest['duplicate_share_sparse'])} among as many fakes as real images (real ones: 1 %)"
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

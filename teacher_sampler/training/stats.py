"""The log of a training run, and the sign of a collapsed generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from runtime.atomic import write_text

COLLAPSED_BELOW = 0.1  # spread of fakes within a label, as a part of that of real images


class StatsLog:
    """`stats.jsonl`: one JSON object a line, each with its `step`; a resume drops the lines past its step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resumed_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    break  # the half-written last line of a killed run
        write_text(path, "".join(kept))

    def append(self, entry: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def spread_within_labels(images: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over pixels of the standard deviation among images of the same label; NaN where every label is alone.

    images: N x C x H x W; labels: int64 N, or float N x d, which counts as one label for all.
    """
    groups = labels if labels.ndim == 1 else torch.zeros(len(labels), dtype=torch.int64)
    spreads = [
        images[groups == label].float().std(dim=0).mean()
        for label in groups.unique()
        if int((groups == label).sum()) > 1
    ]
    return float(torch.stack(spreads).mean()) if spreads else float("nan")


def collapse_warning(fake_spread: float, real_spread: float) -> str | None:
    """A sentence where the fakes of a label are nearly one image."""
    if real_spread > 0 and fake_spread < COLLAPSED_BELOW * real_spread:
        return (
            f"collapsed: images of a label vary {fake_spread / real_spread:.1%} as much as real ones; "
            "lower the rates, widen diffaugment or stop earlier"
        )
    return None

"""The sign of a collapsed generator."""

from __future__ import annotations

from typing import Any

import torch

from runtime.ranks import ALONE, Ranks

COLLAPSED_BELOW = 0.1  # spread of fakes within a label, as a part of that of real images


def spreads(fake: torch.Tensor, real: torch.Tensor, labels: torch.Tensor, ranks: Ranks = ALONE) -> dict[str, Any]:
    """`fake_spread` and `real_spread` of the whole batch, and a `warning` where the fakes have collapsed."""
    labels = ranks.gather(labels).cpu()
    fake_spread, real_spread = (spread_within_labels(ranks.gather(images).cpu(), labels) for images in (fake, real))
    warning = collapse_warning(fake_spread, real_spread)
    values = {"fake_spread": round(fake_spread, 4), "real_spread": round(real_spread, 4)}
    return {**values, **({"warning": warning} if warning else {})}


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

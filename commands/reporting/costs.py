"""Sizes and speeds side by side, as dictionaries and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


def compare_generators(generators: Mapping[str, Any], batch_size: int = 64) -> dict[str, dict[str, Any]]:
    """Cost of each generator that is there: parameters, multiply-adds of one image, latency on this machine."""
    import numpy as np
    import torch

    from evaluation.metrics.cost import network_cost

    found = {}
    for name, generator in generators.items():
        if getattr(generator, "network", None) is None:  # not there, or a black box
            continue
        space = generator.label_space
        labels = np.zeros(batch_size, dtype=np.int64) if space.kind == "classes" else np.full(batch_size, space.low)
        latents = torch.zeros(batch_size, int(generator.card.latent["dimension"]))
        inputs = (latents.to(generator.device), space.encode(labels).to(generator.device))
        found[name] = asdict(network_cost(generator.network, inputs))
    return found


def cost_table(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Aligned columns; the last line says how many times fewer parameters the student has."""
    if not costs:
        return ""
    columns = [key for key, value in next(iter(costs.values())).items() if isinstance(value, int | float)]
    rows = [["", *columns]]
    rows += [[name, *(_number(cost[key]) for key in columns)] for name, cost in costs.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if {"teacher", "student"} <= set(costs):
        ratio = costs["teacher"]["parameters"] / costs["student"]["parameters"]
        lines.append(f"the student has {ratio:.1f} times fewer parameters than the teacher")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

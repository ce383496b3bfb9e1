"""The ceiling M of each label, from a pilot on its own range of k, fixed before the main run.

Continuous labels: a label's ceiling pools the pilots of its nearest labels (a sliding bin), which smooths it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_data.labels import label_space_from_json
from interfaces import Engine
from runtime.progress import progress
from teacher_sampler.sampling.plan import Acceptance, MakeParts, RunContent
from teacher_sampler.sampling.units import PilotResult, PilotWorker


@dataclass(frozen=True, eq=False)
class Pilot:
    """`ceilings`: float64 L, or None where all is accepted; `rates`: expected acceptance of each label."""

    ceilings: np.ndarray | None
    rates: np.ndarray
    files: dict[str, str]  # name -> sha256 of the committed ratios


def run_pilot(
    folder: Path,
    make_parts: MakeParts,
    acceptance: Callable[[], Acceptance],
    content: RunContent,
    token: str,
    engine: Engine,
) -> Pilot:
    """Draw the pilots that are not there yet, and set the ceilings.

    Raises UserError naming the label whose pilot leaves nothing to accept.
    """
    if not content.needs_ratio:
        return Pilot(None, np.ones(len(content.labels)), {})
    worker = PilotWorker(folder, make_parts, content, content.digest, token)
    by_group: dict[int, PilotResult] = {}
    with progress("pilot", content.groups) as bar:
        for result in engine.map(worker, range(content.groups)):
            by_group[result.group] = result
            bar.advance(1)
    results = [by_group[group] for group in range(content.groups)]
    r = np.concatenate([result.r for result in results]).astype(np.float64)
    ceilings = label_ceilings(r, content, acceptance())
    rates = np.minimum(r / ceilings[:, None], 1.0).mean(axis=1)
    return Pilot(ceilings, rates, {f"group-{result.group:05d}.h5": result.sha256 for result in results})


def label_ceilings(r: np.ndarray, content: RunContent, acceptance: Acceptance) -> np.ndarray:
    """float64 L: M of each label from the pilots' ratios, float64 L x P."""
    neighbours = int(content.settings.ceiling_neighbours or 1)
    space = label_space_from_json(content.label_space)
    if neighbours == 1 or space.kind == "classes":
        pools = np.arange(len(r))[:, None]
    else:
        positions = space.encode(content.labels).numpy().astype(np.float64)
        pools = np.stack([_nearest(positions, row, neighbours) for row in range(len(r))])
    ceilings = []
    for row, pool in enumerate(pools):
        ratios = r[pool].reshape(-1)
        ceiling = acceptance.ceiling(ratios, content.label_name(row))
        ceilings.append(max(ceiling, float(ratios.max())) if content.settings.running_max else ceiling)
    return np.array(ceilings)


def _nearest(positions: np.ndarray, row: int, count: int) -> np.ndarray:
    """The `count` labels nearest to label `row`, itself among them; ties go to the earlier label."""
    distance = ((positions - positions[row]) ** 2).sum(axis=1)
    return np.argsort(distance, kind="stable")[:count]

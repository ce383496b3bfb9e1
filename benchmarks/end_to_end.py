"""Sampling end to end, against the bare forward passes of the same networks on the very same candidates.

End to end: latents, generation, rounding, ratio, acceptance, predictor on what was accepted, checksums, commit with
fsync, pilot, manifest.  Bare: generator and ratio on the same candidates (the pilot's too), predictor on the same
accepted images, in the same blocks and by the same threads; latents are ready, and nothing is kept.  Both run in one
process in turns, bare before and after each run, and a ratio is that of neighbours.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import clocks, memory_of_process
from benchmarks.untrained import TINY
from image_data.fake.manifest import read_manifest, shard_path
from image_data.fake.sealed import SHARD_LAYOUT, locate, map_place
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.progress import say
from runtime.seeds import numbered_keys
from teacher_sampler.sampling.plan import PILOT_START, LabelPlan, RunContent, SamplingParts, candidate_keys
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import SCORED_AT_ONCE, fixed_numerics

_TRIED = 64  # candidates by which the speed is guessed
_PER_FAKE = 4  # candidates a fake, about: a third is accepted, and the pilot's
FEW, MANY = 20_000, 100_000  # fakes between which memory shall not grow


@dataclass(frozen=True, eq=False)
class Work:
    """What the networks looked at in a finished run: blocks of (latents, labels, keys), and the accepted images."""

    blocks: list[tuple[torch.Tensor | None, np.ndarray, np.ndarray]]
    accepted: torch.Tensor
    candidates: int

    @staticmethod
    def of(folder: Path, parts: SamplingParts) -> Work:
        """Read from the dataset in `folder`."""
        content, _ = load_run(folder)
        manifest = read_manifest(folder)
        calls = [
            candidate_keys(group, entry.index * content.unit_candidates, content.candidate_counts(*_unit(entry)))
            for entry in manifest.shards
            for group in [_labels(content, entry.group)]
        ]
        labels = [_labels(content, entry.group) for entry in manifest.shards]
        if content.needs_ratio:
            pilot = int(content.settings.pilot_candidates or 1)
            groups = [_labels(content, group) for group in range(content.groups)]
            labels += groups
            calls += [candidate_keys(group, PILOT_START, pilot) for group in groups]
        blocks = []
        for group, (place, keys) in zip(labels, calls, strict=True):
            blocks += _blocks(parts, content.settings, group[place], keys)
        files = [shard_path(folder, entry.name) for entry in manifest.shards]
        images = np.concatenate([map_place(file, locate(file, SHARD_LAYOUT)["fake_images"]) for file in files])
        return Work(blocks, torch.from_numpy(images), sum(len(keys) for _, keys in calls))


def _unit(entry: Any) -> tuple[int, int]:
    return entry.group, entry.index


def _labels(content: RunContent, group: int) -> np.ndarray:
    return content.labels[content.group_rows(group)]


def _blocks(
    parts: SamplingParts, settings: SamplerSettings, labels: np.ndarray, keys: np.ndarray
) -> list[tuple[torch.Tensor | None, np.ndarray, np.ndarray]]:
    size = int(settings.block_size or 1)
    fills = [np.minimum(np.arange(start, start + size), len(keys) - 1) for start in range(0, len(keys), size)]
    return [(parts.teacher.latents(keys[fill], settings.seed), labels[fill], keys[fill]) for fill in fills]


def bare_passes(parts: SamplingParts, work: Work, settings: SamplerSettings) -> np.ndarray:
    """Wall and processor seconds of the forward passes alone."""
    start = clocks()
    with fixed_numerics(settings):
        for latents, labels, keys in work.blocks:
            images = quantise(parts.teacher.generate(latents, labels, keys, settings.seed))
            if parts.density_ratio is not None:
                parts.density_ratio(images, labels)
        if parts.predictor is not None and len(work.accepted):
            for block in work.accepted.split(min(SCORED_AT_ONCE, int(settings.block_size or 1))):
                parts.predictor(block)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return clocks() - start


def compare(
    make_parts: Callable[[], SamplingParts], plan: LabelPlan, settings: SamplerSettings, rounds: int, place: Path | None
) -> dict[str, Any]:
    """Medians over `rounds`, after one that warms up.  The datasets are made in `place` (default: the system's)."""
    parts = make_parts()
    rows = []
    before = np.zeros(2)
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory(dir=place) as name:
            folder = Path(name) / "f"
            start = clocks()
            sample(lambda: parts, plan, settings, folder, LocalEngine(1))
            whole = clocks() - start
            if not number:
                settings = load_run(folder)[0].settings
                work = Work.of(folder, parts)
        after = bare_passes(parts, work, settings)
        if number:
            rows.append((whole, (before + after) / 2))
            say(f"round {number} of {rounds}: {whole[0]:.2f} s end to end, {rows[-1][1][0]:.2f} s bare")
        before = after
    measured = np.array(rows)  # rounds x (end to end, bare) x (wall, processor)
    ratios = np.median(measured[:, 1] / measured[:, 0], axis=0)
    whole, bare = np.median(measured[:, :, 0], axis=0)
    return {
        "fakes": plan.total,
        "candidates": work.candidates,
        "accepted": len(work.accepted),
        "block": int(settings.block_size or 1),
        "threads": settings.threads,
        "end to end, s": float(whole),
        "bare, s": float(bare),
        "candidates/s": float(work.candidates / whole),
        "accepted images/s": float(len(work.accepted) / whole),
        "accepted images/s, bare": float(len(work.accepted) / bare),
        "ratio": float(ratios[0]),
        "ratio of processor time": float(ratios[1]),
    }


def sized_plan(
    parts: SamplingParts, labels: np.ndarray, settings: SamplerSettings, count: int | None, seconds: float = 10.0
) -> tuple[LabelPlan, SamplerSettings]:
    """A plan of `count` fakes in all (default: what takes about `seconds`) of these labels, and a pilot in proportion.

    UserError where that is less than one fake of each label.
    """
    if count is not None and count < len(labels):
        raise UserError(f"--count {count} is less than one fake of each of the {len(labels)} labels; give more.")
    if count is None:
        tried, some = replace(settings, block_size=_TRIED), labels[np.arange(_TRIED) % len(labels)]
        work = Work(_blocks(parts, tried, some, numbered_keys(some)), torch.empty(0), _TRIED)
        bare_passes(parts, work, tried)
        count = int(_TRIED * seconds / _PER_FAKE / bare_passes(parts, work, tried)[0])
    per_label = max(1, count // len(labels))
    pilot = max(1, min(1000, 2 * per_label))
    return LabelPlan(labels, per_label), replace(settings, pilot_candidates=pilot)


def memory_growth(few: int, many: int, place: Path | None) -> dict[str, Any]:
    """MiB at the highest of two fresh processes that sample so many fakes with small networks, and the growth."""
    peaks = {count: peak_memory(count, place) for count in (few, many)}
    table: dict[str, Any] = {f"peak memory at {count} fakes, MiB": value for count, value in peaks.items()}
    return table | {"growth": peaks[many] / peaks[few] - 1.0}


def peak_memory(fakes: int, place: Path | None) -> float:
    """MiB at the highest, of a fresh process that samples so many fakes."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(fakes, place, send))
    process.start()
    send.close()
    try:
        peak = float(receive.recv())
    except EOFError as error:
        raise UserError(
            f"the process that samples {fakes} fakes died (out of memory?); give a smaller --count."
        ) from error
    finally:
        process.join()
    return peak


def _measure_memory(fakes: int, place: Path | None, answer: Any) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        sample(TINY, TINY.plan(fakes), SamplerSettings(), Path(name) / "f", LocalEngine(1))
    answer.send(memory_of_process("VmHWM") / 2**20)
    answer.close()

"""Sampling end to end, against the bare forward passes of the same networks on the same candidates.

    python benchmarks/sampling.py            about a minute: throughput
    python benchmarks/sampling.py --small    a few seconds
    python benchmarks/sampling.py --memory   peak memory at 20,000 and 100,000 fakes, each in a process of its own

End to end: latents, generation, rounding, ratio, acceptance, predictor on what was accepted, checksums, commit with
fsync, pilot, manifest.  Bare: generator and ratio on the same candidates (the pilot's too), predictor on the same
accepted images, in the same blocks, nothing kept.  Both run in one process with the same threads, in turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from image_data.fake import describe_fakes, open_fakes
from image_data.labels import ClassLabels
from interfaces import TeacherCard
from layers.generator import NetworkGenerator
from runtime.engines import LocalEngine
from teacher_sampler.networks import TEACHERS
from teacher_sampler.plan import LabelPlan, SamplingParts
from teacher_sampler.sampler import sample
from teacher_sampler.settings import SamplerSettings
from teacher_sampler.units import fixed_numerics, quantise

SPACE = ClassLabels(tuple(str(digit) for digit in range(10)))


def small_cnn(outputs: int, width: int) -> nn.Module:
    """Three convolutions and a linear layer: the size of a demo predictor."""
    layers: list[nn.Module] = []
    for index, channels in enumerate((width, 2 * width, 4 * width)):
        before = 1 if index == 0 else channels // 2
        layers += [nn.Conv2d(before, channels, 3, stride=1 if index == 0 else 2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs)).eval()


class NetworkRatio:
    """A ratio of image and label by an untrained network, about one in three accepted."""

    def __init__(self) -> None:
        self.network = small_cnn(10, 16)
        self.card: dict[str, Any] = {}

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        logits = self.network(images.float() / 127.5 - 1.0)
        chosen = logits.gather(1, torch.from_numpy(labels)[:, None])[:, 0]
        return torch.exp(40.0 * chosen)


class NetworkPredictor:
    """An untrained classifier."""

    def __init__(self) -> None:
        self.network = small_cnn(10, 32)
        self.card: dict[str, Any] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.float() / 127.5 - 1.0)


@dataclass(frozen=True)
class Rejection:
    """u <= r / M with M the 99.9 % quantile."""

    needs_ratio: bool = True
    quantile: float = 0.999

    def ceiling(self, r: np.ndarray, label: str) -> float:
        return float(np.quantile(r, self.quantile))

    def accept(self, uniforms: np.ndarray, r: np.ndarray, ceiling: float | np.ndarray) -> np.ndarray:
        return uniforms <= r / ceiling


def cross_entropy(output: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """float32 N."""
    return torch.nn.functional.cross_entropy(output, torch.from_numpy(labels), reduction="none").numpy()


def make_parts(width: int = 16) -> SamplingParts:
    """The demo's shape of teacher, untrained: 16x16 grey digits."""
    torch.manual_seed(0)
    arguments = {"resolution_px": 16, "channels": 1, "width": width, "latent_dim": 64, "label_dim": 32}
    network = TEACHERS.get("biggan")({**arguments, "spectral_normed": False}, SPACE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    card = TeacherCard(
        architecture="biggan",
        arguments=arguments,
        resolution_px=16,
        channels=1,
        label_space=SPACE.to_json(),
        latent={"distribution": "normal", "dimension": 64},
        truncation={},
        source_digest="",
        licence="none",
        allowed_augmentations=[],
    )
    teacher = NetworkGenerator(card, network, SPACE, torch.device("cpu"))
    return SamplingParts(teacher, NetworkRatio(), NetworkPredictor(), Rejection(), cross_entropy)


def clocks() -> np.ndarray:
    """Wall and processor seconds; on a busy machine the second is the steadier measure."""
    return np.array([time.perf_counter(), time.process_time()])


def bare_passes(parts: SamplingParts, candidates: int, accepted: int, settings: SamplerSettings) -> np.ndarray:
    """Wall and processor seconds of the forward passes alone."""
    size = int(settings.block_size or 1)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(size, 64, generator=generator)
    labels, keys = np.arange(size) % 10, np.zeros((size, 2), dtype=np.int64)
    start = clocks()
    with fixed_numerics(settings):
        for _ in range(-(-candidates // size)):
            images = quantise(parts.teacher.generate(latents, labels, keys, 0))
            parts.density_ratio(images, labels)  # type: ignore[misc]
        for _ in range(-(-accepted // size)):
            parts.predictor(images)  # type: ignore[misc]
    return clocks() - start


def throughput(per_label: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, each of which runs the bare passes before and after the sampling, and takes their mean."""
    settings = SamplerSettings(seed=0, block_size=256)
    parts = make_parts()
    rows = []
    candidates, accepted, pilot = 27 * per_label // 10, 12 * per_label // 10, 0  # a guess, for warming up
    for number in range(rounds):
        bare = bare_passes(parts, candidates + pilot, accepted, settings)
        with tempfile.TemporaryDirectory() as folder:
            start = clocks()
            sample(make_parts, LabelPlan.classes(SPACE, per_label), settings, Path(folder) / "f", LocalEngine(1))
            whole = clocks() - start
            found = describe_fakes(Path(folder) / "f")
        candidates, accepted = found["candidates"], found["accepted"]
        pilot = 10 * int(found["settings"]["pilot_candidates"])
        after = bare_passes(parts, candidates + pilot, accepted, settings)
        bare = (bare + after) / 2 if number else after
        rows.append((whole, bare))
        print(f"round {number}: {whole[0]:.2f} s end to end, {bare[0]:.2f} s bare", file=sys.stderr)
    measured = np.array(rows)  # rounds x (end to end, bare) x (wall, processor)
    ratios = np.median(measured[:, 1] / measured[:, 0], axis=0)
    whole, bare = np.median(measured[:, :, 0], axis=0)
    return {
        "fakes": 10 * per_label,
        "candidates": candidates + pilot,
        "accepted": accepted,
        "threads": settings.threads,
        "end_to_end_s": float(whole),
        "bare_s": float(bare),
        "candidates_per_s": float((candidates + pilot) / whole),
        "ratio": float(ratios[0]),
        "ratio_processor_time": float(ratios[1]),
        "ratio_of_fastest": float(measured[:, 1, 0].min() / measured[:, 0, 0].min()),
    }


def peak_memory(fakes: int) -> float:
    """MiB at the highest, of a fresh process that samples so many fakes."""
    found = subprocess.run(
        [sys.executable, __file__, "--measure", str(fakes)], check=True, capture_output=True, text=True
    )
    return float(found.stdout.split()[-1])


def main() -> None:
    """Print a table on stderr and one JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few seconds")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as folder:
            plan = LabelPlan.classes(SPACE, options.measure // 10)
            sample(lambda: make_parts(4), plan, SamplerSettings(), Path(folder) / "f", LocalEngine(1))
            open_fakes(Path(folder) / "f")
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    if options.memory:
        counts = (2_000, 10_000) if options.small else (20_000, 100_000)
        found: dict[str, Any] = {str(count): peak_memory(count) for count in counts}
        found["growth"] = found[str(counts[1])] / found[str(counts[0])] - 1.0
    else:
        found = throughput(100 if options.small else 1000, 2 if options.small else 5)
    for key, value in found.items():
        print(f"{key:>18}  {value:.4g}" if isinstance(value, float) else f"{key:>18}  {value}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

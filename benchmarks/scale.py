"""The numbers of docs/scale.md: what ImageNet-1k at 128 x 128 with 10,000 fakes a class costs.

python benchmarks/scale.py             the document's tables, from benchmarks/scale_inputs.yaml
python benchmarks/scale.py --measure   measure on this machine first, and print the measured part of the inputs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost_model import Networks, Totals, Worker, totals
from benchmarks.scale_inputs import CLASSES, PX, content, measure, read_inputs
from teacher_sampler.sampling.disk_space import row_bytes

PER_CLASS = 10_000
DEVICES = (1, 8, 64)


def acceptance(inputs: dict[str, Any]) -> np.ndarray:
    """Rates of the classes, drawn once from the stated distribution: float64 of CLASSES."""
    assumed = inputs["assumed"]["acceptance"]
    return np.random.Generator(np.random.Philox(0)).beta(assumed["beta_a"], assumed["beta_b"], CLASSES)


def gpus(inputs: dict[str, Any]) -> dict[str, Worker]:
    """Published ResNet-50 speeds as multiply-adds a second; an image in training counts as three forward passes."""
    one = inputs["measured"]["multiply_adds"]["resnet50_at_224"]
    commit = inputs["measured"]["commit_mb_per_s"] * 1e6
    return {
        name: Worker(name, published["resnet50_images_per_s"] * published["forward_passes"] * one, commit)
        for name, published in inputs["published"]["gpus"].items()
    }


def networks(inputs: dict[str, Any]) -> Networks:
    """Of the plan."""
    macs = inputs["measured"]["multiply_adds"]
    return Networks(macs["generator"], macs["ratio"], macs["predictor"])


def planned(inputs: dict[str, Any], worker: Worker) -> Totals:
    """The plan on one kind of worker."""
    return totals(content(PER_CLASS), PER_CLASS, acceptance(inputs), networks(inputs), worker)


def head_s(inputs: dict[str, Any]) -> float:
    """Seconds of the scheduling process for one unit: the scheduler, and handing out a task."""
    return 1e-3 * (inputs["measured"]["schedule_ms_per_unit"] + inputs["measured"]["local_task_ms"])


def measured_table(inputs: dict[str, Any]) -> str:
    """Generators: multiply-adds and images a second on one core."""
    rows = [["generator", "10⁹ multiply-adds", "images/s on one core"]]
    for name, generator in inputs["measured"]["generators"].items():
        rows.append([name, f"{generator['giga_multiply_adds']:.3g}", f"{generator['images_per_s']:,g}"])
    return markdown(rows)


def store_table(inputs: dict[str, Any]) -> str:
    """What the store and the scheduler cost, in processor time of one core."""
    measured = inputs["measured"]
    return markdown(
        [
            ["store and scheduler", "one core"],
            [
                "commit a shard of 128 x 128 images (checksums, packing, reading back)",
                f"{measured['commit_mb_per_s']:g} MB/s",
            ],
            ["verify", f"{measured['verify_mb_per_s']:g} MB/s"],
            ["first training pass (every checksum)", f"{measured['first_training_pass_mb_per_s']:g} MB/s"],
            ["schedule a unit, 1,000 classes and 64 workers", f"{measured['schedule_ms_per_unit']} ms"],
            ["hand a unit to a local process", f"{measured['local_task_ms']} ms"],
            [
                "manifest of 40,000 units: write, read",
                f"{measured['manifest_write_s']} s, {measured['manifest_read_s']} s",
            ],
            ["sampling over HTTP on loopback / in the process (README)", f"{inputs['readme']['http_ratio']}"],
        ]
    )


def assumption_table(inputs: dict[str, Any]) -> str:
    """Published and assumed numbers."""
    rows = [["not measured by us", "value", "source"]]
    for name, gpu in inputs["published"]["gpus"].items():
        speed = f"ResNet-50 at 224: {gpu['resnet50_images_per_s']:,} images/s"
        rows.append([name, speed + (" in training" if gpu["forward_passes"] > 1 else ""), gpu["source"]])
    assumed = inputs["assumed"]
    beta = assumed["acceptance"]
    rows += [
        ["acceptance of a class", f"Beta({beta['beta_a']}, {beta['beta_b']})", f"assumed: {beta['why']}"],
        ["shared folder", f"{assumed['shared_disk_mb_per_s']:,} MB/s", "assumed: what a 10 Gbit/s link carries"],
    ]
    return markdown(rows)


def cost_table(inputs: dict[str, Any]) -> str:
    """One column a kind of GPU."""
    workers = gpus(inputs)
    hours = {name: planned(inputs, worker).worker_s / 3600 for name, worker in workers.items()}
    total = planned(inputs, next(iter(workers.values())))
    image, plan = 3 * PX * PX, networks(inputs)
    rows = [["", *workers]]
    per_s = [worker.macs_per_s / (plan.generator + plan.ratio) for worker in workers.values()]
    rows.append(["candidates/s of one GPU", *(f"{value:,.0f}" for value in per_s)])
    rows.append(["GPU hours", *(f"{value:.1f}" for value in hours.values())])
    shared = [
        ["candidates, the pilots' too", f"{total.candidates / 1e6:.1f} million"],
        ["accepted images on disk", f"{total.rows / 1e6:.2f} million"],
        ["bytes of an image", f"{row_bytes(content(PER_CLASS)):,} of which {image:,} pixels"],
        ["units (shards)", f"{total.units:,.0f}"],
        ["disk", f"{total.disk_bytes / 1e9:.0f} GB"],
        ["to and from a shared folder", f"{total.traffic_bytes / 1e9:.0f} GB"],
        ["images from a teacher over HTTP", f"{total.candidates * image / 1e9:.0f} GB"],
        ["manifest", f"{total.units * inputs['measured']['manifest_bytes_per_unit'] / 1e6:.0f} MB"],
        [
            "verifying it",
            f"{total.disk_bytes / 1e6 / inputs['measured']['verify_mb_per_s'] / 3600:.1f} hours of a core",
        ],
    ]
    return markdown(rows) + "\n\n" + markdown([["whatever the GPU", ""], *shared])


def bound_table(inputs: dict[str, Any]) -> str:
    """Accepted images a second that each part alone would sustain; the least is the bottleneck."""
    disk_bytes_per_s = float(inputs["assumed"]["shared_disk_mb_per_s"]) * 1e6
    rows: list[list[str]] = []
    for name, worker in gpus(inputs).items():
        for devices in DEVICES:
            sustained = planned(inputs, worker).sustained(devices, disk_bytes_per_s, head_s(inputs))
            if not rows:
                rows.append(["GPUs", *sustained, "bottleneck"])
            slowest = min(sustained, key=sustained.__getitem__)
            rows.append([f"{devices} x {name}", *(f"{value:,.0f}" for value in sustained.values()), slowest])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


TABLES = (measured_table, store_table, assumption_table, cost_table, bound_table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure here first")
    options = parser.parse_args()
    inputs = read_inputs()
    if options.measure:
        import yaml

        inputs["measured"] = measure()
        print(yaml.safe_dump({"measured": inputs["measured"]}, sort_keys=False))
    print("\n\n".join(make(inputs) for make in TABLES))


if __name__ == "__main__":
    main()

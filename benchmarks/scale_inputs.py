"""The inputs of the plan in docs/scale.md, and how those that can be measured here are measured.

`scale_inputs.yaml` holds them in three parts: `measured` (here, on a CPU core; written by `measure`), `published`
(someone else's numbers, with their source) and `assumed` (nobody's numbers).
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.untrained import class_space, noise_dataset
from classifiers.networks import build_student
from evaluation.cost import multiply_adds
from filters.density_ratio import RatioNetwork
from filters.features import build_feature_network
from image_data.fake import open_fakes, verify_fakes
from image_data.fake.manifest import MANIFEST_FILE, ScoreEntry, read_manifest, write_manifest
from image_data.fake.sealed import commit_sealed, rows_crc32, seal
from image_data.reader import BatchReader
from runtime.engines import LocalEngine
from runtime.progress import say
from teacher_sampler.networks import TEACHERS
from teacher_sampler.sampling.pilot import Pilot
from teacher_sampler.sampling.plan import RunContent, Unit
from teacher_sampler.sampling.schedule import Schedule
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import UnitResult

INPUTS = Path(__file__).resolve().parent / "scale_inputs.yaml"
PX, CLASSES, LATENT = 128, 1000, 120
_BATCH_PIXELS = 4 * 64 * 64  # of a batch; of larger images four
_GENERATORS = {  # name -> (architecture, classes, arguments)
    "BigGAN 16, 16 x 16 grey": ("biggan", 10, {"resolution_px": 16, "channels": 1, "width": 16, "latent_dim": 64}),
    "BigGAN 32, 32 x 32": ("biggan", 10, {"resolution_px": 32, "channels": 3, "width": 32, "latent_dim": 128}),
    "BigGAN 64, 64 x 64": ("biggan", 200, {"resolution_px": 64, "channels": 3, "width": 64, "latent_dim": 120}),
    "BigGAN 96, 128 x 128": ("biggan", CLASSES, {"width": 96, "attention_px": 64}),
    "BigGAN-deep 128, 128 x 128": ("biggan-deep", CLASSES, {"width": 128, "attention_px": 64, "latent_dim": 128}),
}
PLANNED = "BigGAN 96, 128 x 128"


def read_inputs(path: Path = INPUTS) -> dict[str, Any]:
    """The three parts."""
    inputs: dict[str, Any] = yaml.safe_load(path.read_text())
    return inputs


def content(per_label: int, labels: int = CLASSES) -> RunContent:
    """The run that is planned: BigGAN's 128 x 128 images of every class, filter and predictor, default settings."""
    settings = SamplerSettings().resolve(labels, per_label, True, 3 * PX * PX)
    return RunContent(
        settings=settings,
        label_space=class_space(labels).to_json(),
        labels=np.arange(labels),
        image_shape=(3, PX, PX),
        latent_dimension=LATENT,
        has_ratio=True,
        needs_ratio=True,
        has_predictor=True,
        teacher={},
    )


def generator(name: str, device: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A generator as sampling runs it and one batch for it, both without contents (on a CPU: any that are finite)."""
    architecture, classes, given = _GENERATORS[name]
    arguments = {"resolution_px": PX, "channels": 3, "latent_dim": LATENT, "label_dim": 128, "spectral_normed": False}
    arguments |= given
    with torch.device("meta"):
        network = TEACHERS.get(architecture)(class_space(classes), **arguments).eval().requires_grad_(False)
    network = network.to_empty(device=device).to(memory_format=torch.channels_last)
    for tensor in network.state_dict().values():
        tensor.fill_(0.01)  # without contents there may be numbers that are slow to calculate with
    batch = max(4, _BATCH_PIXELS // int(str(arguments["resolution_px"])) ** 2)
    latents = torch.ones(batch, int(str(arguments["latent_dim"])), device=device)
    return network, (latents, torch.zeros(batch, dtype=torch.long, device=device))


def multiply_adds_of_plan() -> dict[str, float]:
    """Of one image through each network of the plan; counted, not timed."""
    space = class_space(CLASSES)
    extractor = {"channels": 3, "resolution_px": PX, "feature_dim": 512, "width": 64}
    with torch.device("meta"):
        features = build_feature_network({**extractor, "outputs": CLASSES, "label_kind": "classes"}).eval()
        hidden = RatioNetwork(513, "classes", CLASSES, "mlp5", 1.0, 0.5).eval()
        resnet = build_student("timm:resnet50", 3, PX, space).eval()
        images, wide, label = torch.zeros(1, 3, PX, PX), torch.zeros(1, 3, 224, 224), torch.zeros(1, dtype=torch.long)
        ratio = multiply_adds(features, (images,)) + multiply_adds(hidden, (torch.zeros(1, 513), label))
        return {
            "generator": float(multiply_adds(*generator(PLANNED, "meta"))),
            "ratio": float(ratio),
            "predictor": float(multiply_adds(resnet, (images,))),
            "resnet50_at_224": float(multiply_adds(resnet, (wide,))),
        }


def measure() -> dict[str, Any]:
    """The part `measured`, anew, on one core of this machine, in some minutes; all speeds are in processor time."""
    torch.set_num_threads(1)
    measured: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"one core, {platform.machine()}, torch {torch.__version__.split('+')[0]}",
        "multiply_adds": multiply_adds_of_plan(),
    }
    measured["generators"] = {name: _generator_speed(name) for name in _GENERATORS}
    say("generators measured")
    with tempfile.TemporaryDirectory() as name:
        measured |= _store_speeds(Path(name))
    say("store measured")
    measured["schedule_ms_per_unit"] = _schedule_ms()
    measured["local_task_ms"] = _task_ms()
    return measured


def _generator_speed(name: str) -> dict[str, float]:
    network, inputs = generator(name, "cpu")
    with torch.inference_mode():
        seconds = _median_seconds(lambda: network(*inputs), 3, time.process_time)
    macs = multiply_adds(network, inputs)
    return {"giga_multiply_adds": round(macs / 1e9, 3), "images_per_s": _three_digits(len(inputs[0]) / seconds)}


def _store_speeds(folder: Path) -> dict[str, Any]:
    """MB/s of committing a shard, verifying and the first training pass; and what the manifest of many units costs."""
    dataset = noise_dataset(folder / "f", 1000, 3, PX)
    fakes = open_fakes(dataset)
    images = fakes.images(np.arange(256))
    rows = len(images)

    def commit() -> None:
        arrays = {
            "fake_images": images,
            "fake_labels": np.zeros(rows, dtype=np.int64),
            "sample_index": np.arange(rows),
            "latents": np.zeros((rows, LATENT), dtype=np.float32),
            "density_ratio": np.ones(rows, dtype=np.float32),
            "row_crc32": rows_crc32(images),
            "candidates/k": np.arange(3 * rows),
            "candidates/r": np.ones(3 * rows, dtype=np.float32),
        }
        commit_sealed(folder / "shard.h5", seal(arrays, {"format_version": 1}))

    size = rows * (images[0].nbytes + 4 * LATENT)

    def read() -> None:
        for _ in BatchReader(open_fakes(dataset).view(), 64, 1000 // 64, ahead=0):
            pass

    shards = sum(path.stat().st_size for path in dataset.rglob("*.h5"))
    work = {
        "commit": (size, commit),
        "verify": (shards, lambda: verify_fakes(dataset)),
        "first_training_pass": (1000 // 64 * 64 * images[0].nbytes, read),
    }
    seconds = {name: _median_seconds(function, 5, time.process_time) for name, (_, function) in work.items()}
    speeds = {f"{name}_mb_per_s": _three_digits(work[name][0] / 1e6 / spent) for name, spent in seconds.items()}
    return {**speeds, **_manifest_costs(folder, dataset)}


def _manifest_costs(folder: Path, dataset: Path, units: int = 40_000) -> dict[str, float]:
    """A manifest of so many units with scores, written and read."""
    manifest = read_manifest(dataset)
    entry = manifest.content["shards"][0]
    shards = [{**entry, "name": f"unit-{number // 40:05d}-{number % 40:05d}.h5"} for number in range(units)]
    (folder / "m").mkdir()
    begin = time.process_time()
    scores = {"0" * 64: [ScoreEntry(str(shard["name"]), str(shard["sha256"])) for shard in shards]}
    write_manifest(folder / "m", {**manifest.content, "shards": shards}, scores, manifest.provenance)
    written = time.process_time()
    read_manifest(folder / "m")
    read = time.process_time()
    return {
        "manifest_bytes_per_unit": round((folder / "m" / MANIFEST_FILE).stat().st_size / units),
        "manifest_write_s": _three_digits(written - begin),
        "manifest_read_s": _three_digits(read - written),
    }


def _schedule_ms(per_label: int = 1000) -> float:
    """The scheduler's own time for one unit, with a thousand classes and 128 units under way."""
    plan, accepted = content(per_label), np.array([230])
    schedule = Schedule(plan, per_label, plan.settings.cap(per_label), Pilot(None, np.full(CLASSES, 0.3), {}))

    def make(units: Iterable[Unit]) -> Iterator[UnitResult]:
        started: deque[Unit] = deque()
        for unit in units:
            started.append(unit)
            if len(started) == 128:
                yield UnitResult(started.popleft(), accepted, plan.unit_candidates, "", None)
        for unit in started:
            yield UnitResult(unit, accepted, plan.unit_candidates, "", None)

    begin = time.process_time()
    schedule.run(make, 64)
    return _three_digits(1e3 * (time.process_time() - begin) / len(schedule.results))


def _task_ms(items: int = 500) -> float:
    """What handing a task to a worker process of this machine, and taking its result, costs this process."""
    engine = LocalEngine(2)
    try:
        list(engine.map(abs, range(4)))  # the processes are there
        begin = time.process_time()
        list(engine.map(abs, range(items)))
        return _three_digits(1e3 * (time.process_time() - begin) / items)
    finally:
        engine.close()


def _median_seconds(work: Callable[[], Any], calls: int, clock: Callable[[], float] = time.perf_counter) -> float:
    work()
    seconds = []
    for _ in range(calls):
        begin = clock()
        work()
        seconds.append(clock() - begin)
    return float(np.median(seconds))


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")

"""docs/scale.md: its tables are the script's, the cost model is the store's, the simulation is the engine's."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scale
from benchmarks.cost_model import CostModel, Networks, Worker
from benchmarks.scale_inputs import content, multiply_adds_of_plan, read_inputs
from benchmarks.simulated_cluster import Cluster, Draws, Job, SimulatedEngine, simulate
from benchmarks.untrained import biggan, class_space
from filters.acceptance import Acceptance
from filters.teacher_error import classification_error
from image_data.fake import describe_fakes
from runtime.engines import LocalEngine
from teacher_sampler.sampling.finish import cut_group, in_groups
from teacher_sampler.sampling.pilot import Pilot
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.schedule import Schedule
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import overlapped

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text()
LABELS = 6
SECOND = Job(1.0)
RATES = np.linspace(0.15, 0.6, LABELS)


def _plan(per_label: int = 400, labels: int = LABELS, unit: int = 64):
    found = content(per_label, labels)
    return replace(found, settings=replace(found.settings, unit_candidates=unit))


def _run(cluster: Cluster, per_label: int = 400, job: Job = SECOND, **changes):
    return simulate(cluster, _plan(per_label), per_label, RATES, lambda rows: job, **changes)


def _needed(schedule: Schedule, per_label: int) -> list[list]:
    found = []
    for units in in_groups(schedule.results, schedule.content.groups):
        last = int(cut_group(np.stack([unit.accepted for unit in units]), per_label)[2].max())
        found.append([unit.unit for unit in units[: last + 1]])
    return found


def test_the_tables_of_the_document_are_those_of_the_script():
    inputs = read_inputs()
    assert len(scale.TABLES) >= 5
    for make in scale.TABLES:
        for part in make(inputs).split("\n\n"):
            assert part in DOCUMENT, make.__name__


@pytest.mark.slow
def test_the_simulated_table_of_the_document_is_that_of_the_script():
    assert scale.simulation_table(read_inputs()) in DOCUMENT


def test_the_document_counts_the_multiply_adds_that_the_networks_have():
    found, stated = multiply_adds_of_plan(), read_inputs()["measured"]["multiply_adds"]
    assert found == stated
    assert 4.0e9 < found["resnet50_at_224"] < 4.2e9  # as published


class EvenRatio:
    """Uniform in [0, 1): half is accepted, whatever the image."""

    def __init__(self) -> None:
        self.card: dict = {}

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        return torch.rand(len(images))


class MeanPredictor:
    """Four logits from the mean."""

    def __init__(self) -> None:
        self.card: dict = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 4) / 255.0


def test_bytes_on_disk_are_predicted_within_a_few_per_cent(tmp_path):
    teacher = biggan(class_space(4), 32, 3, 2, torch.device("cpu"))
    parts = SamplingParts(teacher, EvenRatio(), MeanPredictor(), Acceptance(), classification_error)
    settings = SamplerSettings(block_size=128, unit_candidates=128, pilot_candidates=128)
    sample(lambda: parts, LabelPlan.classes(class_space(4), 500), settings, tmp_path / "f", LocalEngine(1))
    plan, per_label = load_run(tmp_path / "f")
    found = describe_fakes(tmp_path / "f")
    rates = np.full(4, found["acceptance_rate"])
    totals = CostModel(plan, per_label, rates, Networks(1, 1, 1), Worker("", 1, 1)).totals()
    real = sum(path.stat().st_size for path in (tmp_path / "f").rglob("*") if path.is_file())
    assert totals.disk_bytes == pytest.approx(real, rel=0.05)
    assert totals.rows == pytest.approx(found["accepted"], rel=0.05)
    assert totals.candidates == pytest.approx(found["candidates"] + 4 * 128, rel=0.05)


def test_the_cost_model_agrees_with_the_simulation_of_one_worker():
    per_label = 4000
    model = CostModel(_plan(per_label), per_label, RATES, Networks(5.0, 1.0, 3.0), Worker("", 100.0, 1e6))
    totals = model.totals()
    found = simulate(
        Cluster(1), model.content, per_label, RATES, lambda rows: Job(model.compute_s(rows)), model.pilot_s()
    )
    assert found.surplus == 0
    assert found.units == pytest.approx(totals.units, rel=0.02)
    assert found.seconds == pytest.approx(totals.worker_s, rel=0.02)
    assert found.utilisation == pytest.approx(1.0, abs=0.01)


def test_what_is_kept_does_not_depend_on_the_cluster():
    kept = []
    for cluster in (Cluster(1), Cluster(3), Cluster(16, 2, 4, node_hours_between_failures=0.01, repair_s=20.0)):
        plan = _plan()
        schedule = Schedule(plan, 400, plan.settings.cap(400), Pilot(None, RATES, {}))
        engine = SimulatedEngine(cluster, lambda unit: Job(1.0), Draws(plan, RATES, 0))
        schedule.run(engine.map, cluster.workers)
        kept.append(_needed(schedule, 400))
        assert (engine.lost > 0) == (cluster.workers == 32)
    assert kept[0] == kept[1] == kept[2]


def test_more_devices_are_faster_until_something_else_is_the_limit():
    seconds = [_run(Cluster(devices)).seconds for devices in (1, 4, 16)]
    assert seconds[0] > 3 * seconds[1] > 6 * seconds[2] / 2
    one = _run(Cluster(1), job=Job(1.0, disk_bytes=100.0))
    written = 100.0 * one.units
    slow = _run(Cluster(16, disk_bytes_per_s=50.0), job=Job(1.0, disk_bytes=100.0))
    assert slow.seconds > written / 50.0  # every write goes over the one disk
    assert slow.utilisation < 0.2
    head = _run(Cluster(16, head_s=2.0))
    assert head.seconds > 2.0 * one.units
    alone, shared = (_run(Cluster(8, processes), job=Job(1.0, commit_s=0.5)) for processes in (1, 2))
    assert shared.seconds < alone.seconds  # one process computes while the other commits


def test_lost_nodes_cost_time_and_no_fakes():
    quiet = _run(Cluster(8, per_node=2), per_label=2000)
    rough = _run(Cluster(8, per_node=2, node_hours_between_failures=0.02, repair_s=30.0), per_label=2000)
    assert quiet.lost == 0 < rough.lost
    assert rough.seconds > quiet.seconds
    assert rough.units - rough.surplus == quiet.units - quiet.surplus


@dataclass(frozen=True)
class Sleeper:
    """A unit's work on a real engine: sleep, and answer what the simulated unit answers."""

    draws: Draws
    compute_s: float

    def __call__(self, unit):
        time.sleep(self.compute_s)
        return self.draws(unit)


def _schedules(workers: int, real) -> tuple[float, int, float, int]:
    """(seconds, units) of the simulation and of a real engine."""
    plan = _plan(200)
    clocks = []
    for make in ("simulated", "real"):
        schedule = Schedule(plan, 200, plan.settings.cap(200), Pilot(None, RATES, {}))
        engine = SimulatedEngine(Cluster(workers), lambda unit: Job(0.02, 0.03 if workers == 1 else 0.0), _draws(plan))
        begin = time.perf_counter()
        schedule.run(engine.map if make == "simulated" else real(_draws(plan)), workers)
        seconds = engine.now if make == "simulated" else time.perf_counter() - begin
        clocks += [seconds, len(schedule.results)]
    return tuple(clocks)


def _draws(plan) -> Draws:
    return Draws(plan, RATES, 0)


def test_one_simulated_worker_is_the_real_process_that_writes_while_it_computes():
    def real(draws: Draws):
        def commit(result):
            time.sleep(0.03)
            return result

        return lambda units: overlapped(LocalEngine(1).map(Sleeper(draws, 0.02), units), commit)

    simulated_s, simulated_units, seconds, units = _schedules(1, real)
    assert units == simulated_units
    assert seconds > 0.95 * simulated_s  # a busy machine may take any time more


def test_two_simulated_workers_are_the_local_engine_with_two():
    engine = LocalEngine(2)
    try:
        found = _schedules(2, lambda draws: lambda units: engine.map(Sleeper(draws, 0.02), units))
    finally:
        engine.close()
    simulated_s, simulated_units, seconds, units = found
    assert abs(units - simulated_units) <= 2  # two results that come at once may come in either order
    assert seconds > 0.95 * simulated_s

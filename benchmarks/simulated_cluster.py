"""A cluster in simulated time, under the sampler's own scheduler.

`teacher_sampler.sampling.schedule.Schedule` decides, exactly as in a run, which units are made; only the workers are
simulated: they take as many units ahead as the engines do, compute, commit over a shared disk that serves one write
after the other, fail together with their node, and start again what was lost.  What a unit accepts is a pure function
of the unit, so a unit that is made twice gives the same.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.seeds import numpy_generator
from teacher_sampler.sampling.finish import cut_group, in_groups
from teacher_sampler.sampling.pilot import Pilot
from teacher_sampler.sampling.plan import RunContent, Unit
from teacher_sampler.sampling.schedule import Schedule
from teacher_sampler.sampling.units import UnitResult

_DRAWN_AT_ONCE = 64  # units of a group


@dataclass(frozen=True)
class Job:
    """What an item costs a worker: seconds on its device, seconds to commit, bytes over the shared disk."""

    compute_s: float
    commit_s: float = 0.0
    disk_bytes: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """`devices` in nodes of `per_node`, each with `processes`; infinite numbers for what never limits or fails."""

    devices: int
    processes: int = 1  # on a device: with two, one computes while the other commits
    per_node: int = 8
    disk_bytes_per_s: float = float("inf")
    head_s: float = 0.0  # of the scheduling process, for one result
    node_hours_between_failures: float = float("inf")
    repair_s: float = 600.0
    seed: int = 0

    @property
    def workers(self) -> int:
        """Processes in all: what the scheduler knows."""
        return self.devices * self.processes


@dataclass(frozen=True)
class Outcome:
    """Of a simulated run.  `utilisation`: share of the devices' time in which they computed what was kept."""

    seconds: float
    units: int
    surplus: int
    lost: int
    utilisation: float


class SimulatedEngine:
    """`map` as the local and the Ray engine have it, with a clock of its own: `now`, in seconds."""

    def __init__(self, cluster: Cluster, job: Callable[[Any], Job], answer: Callable[[Any], Any]) -> None:
        self.cluster, self._job, self._answer = cluster, job, answer
        self.now, self.computed_s, self.lost = 0.0, 0.0, 0
        self._disk_free = 0.0
        self._queue: deque[Any] = deque()
        self._idle = list(range(cluster.workers))[::-1]
        self._running: dict[int, tuple[Any, float]] = {}  # worker -> item, computing seconds
        self._device_free = [0.0] * cluster.devices
        self._epoch = [0] * cluster.workers
        self._events: list[tuple[float, int, str, int, int]] = []
        self._count = 0
        self._random = numpy_generator(cluster.seed, "node failures")
        self._nodes = -(-cluster.devices // cluster.per_node)
        self._down_until = [0.0] * self._nodes
        for node in range(self._nodes):
            self._plan_failure(node)

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Results as they finish; 2 x workers items are taken ahead, or with one worker one while another commits."""
        if self.cluster.workers == 1:
            yield from self._alone(items)
            return
        for item in items:
            self._queue.append(item)
            self._assign()
            if len(self._running) + len(self._queue) >= 2 * self.cluster.workers:
                yield self._next()
        while self._running or self._queue:
            yield self._next()

    def _alone(self, items: Iterable[Any]) -> Iterator[Any]:
        writing: tuple[float, Any] | None = None
        for item in items:
            job = self._job(item)
            self.now += job.compute_s
            self.computed_s += job.compute_s
            if writing is not None:
                self.now = max(self.now, writing[0]) + self.cluster.head_s
                yield self._answer(writing[1])
            writing = (self._written(self.now + job.commit_s, job), item)
        if writing is not None:
            self.now = max(self.now, writing[0]) + self.cluster.head_s
            yield self._answer(writing[1])

    def _written(self, begin: float, job: Job) -> float:
        """When a write that is ready at `begin` is on the disk, and read back."""
        self._disk_free = max(self._disk_free, begin) + job.disk_bytes / self.cluster.disk_bytes_per_s
        return self._disk_free

    def _push(self, when: float, kind: str, place: int, epoch: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, kind, place, epoch))

    def _assign(self) -> None:
        while self._queue and self._idle:
            worker, item = self._idle.pop(), self._queue.popleft()
            device, job = worker // self.cluster.processes, self._job(item)
            begin = max(self.now, self._device_free[device])
            self._device_free[device] = begin + job.compute_s
            self._running[worker] = (item, job.compute_s)
            self._push(begin + job.compute_s, "computed", worker, self._epoch[worker])

    def _next(self) -> Any:
        """Let time pass until a result is in."""
        while True:
            when, _, kind, place, epoch = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if kind == "fails":
                self._fail(place)
            elif kind == "mended":
                if self.now >= self._down_until[place]:  # it may have failed again meanwhile
                    self._idle += self._workers_of(place)
                    self._assign()
            elif epoch != self._epoch[place]:
                continue  # the worker has died since
            elif kind == "computed":
                job = self._job(self._running[place][0])
                self._push(self._written(when + job.commit_s, job), "committed", place, epoch)
            else:
                item, computed = self._running.pop(place)
                self.computed_s += computed
                self.now += self.cluster.head_s
                self._idle.append(place)
                self._assign()
                return self._answer(item)

    def _workers_of(self, node: int) -> range:
        size = self.cluster.per_node * self.cluster.processes
        return range(node * size, min((node + 1) * size, self.cluster.workers))

    def _plan_failure(self, node: int) -> None:
        if np.isfinite(self.cluster.node_hours_between_failures):
            wait = 3600.0 * float(self._random.exponential(self.cluster.node_hours_between_failures))
            self._push(self.now + wait, "fails", node, 0)

    def _fail(self, node: int) -> None:
        for worker in self._workers_of(node):
            self._epoch[worker] += 1
            if worker in self._running:
                self._queue.appendleft(self._running.pop(worker)[0])
                self.lost += 1
            self._device_free[worker // self.cluster.processes] = self.now + self.cluster.repair_s
        dead = set(self._workers_of(node))
        self._idle = [worker for worker in self._idle if worker not in dead]
        self._down_until[node] = self.now + self.cluster.repair_s
        self._push(self._down_until[node], "mended", node, 0)
        self._plan_failure(node)
        self._assign()


class Draws:
    """What simulated units accept, drawn with their labels' rates: pure functions of (seed, unit)."""

    def __init__(self, content: RunContent, rates: np.ndarray, seed: int) -> None:
        self._content, self._rates, self._seed = content, rates, seed
        self._results: dict[Unit, UnitResult] = {}
        self._drawn: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, unit: Unit) -> UnitResult:
        if unit not in self._results:
            many, row = divmod(unit.index, _DRAWN_AT_ONCE)
            if (unit.group, many) not in self._drawn:
                rates = self._rates[self._content.group_rows(unit.group)]
                random = numpy_generator(self._seed, "simulated units", unit.group, many)
                drawn = random.binomial(self._content.unit_candidates, rates, (_DRAWN_AT_ONCE, len(rates)))
                self._drawn[unit.group, many] = drawn.astype(np.int64)
            accepted = self._drawn[unit.group, many][row]
            candidates = len(accepted) * self._content.unit_candidates
            self._results[unit] = UnitResult(unit, accepted, candidates, "", None)
        return self._results[unit]


def simulate(
    cluster: Cluster,
    content: RunContent,
    per_label: int,
    rates: np.ndarray,
    job_of: Callable[[float], Job],
    pilot_s: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """A run of the sampler on this cluster.  `job_of(accepted rows) -> Job`; `pilot_s`: of one label group's pilot.

    The scheduler knows each label's rate as a pilot of the run's size tells it.
    """
    drawn = int(content.settings.pilot_candidates or 1)
    seen = numpy_generator(seed, "simulated pilot").binomial(drawn, rates) / drawn
    pilots = SimulatedEngine(cluster, lambda group: Job(pilot_s), lambda group: group)
    groups = len(list(pilots.map(range(content.groups)))) if content.needs_ratio and pilot_s else 0
    result = Draws(content, rates, seed)
    jobs: dict[int, Job] = {}

    def job(unit: Unit) -> Job:
        rows = int(result(unit).accepted.sum())
        if rows not in jobs:
            jobs[rows] = job_of(float(rows))
        return jobs[rows]

    schedule = Schedule(content, per_label, content.settings.cap(per_label), Pilot(None, seen, {}))
    engine = SimulatedEngine(cluster, job, result)
    schedule.run(engine.map, cluster.workers)
    kept = 0.0
    needed = 0
    for units in in_groups(schedule.results, content.groups):
        last = int(cut_group(np.stack([unit.accepted for unit in units]), per_label)[2].max())
        needed += last + 1
        kept += sum(job(unit.unit).compute_s for unit in units[: last + 1])
    seconds = pilots.now + engine.now
    useful = (kept + groups * pilot_s) / (cluster.devices * seconds)
    made = len(schedule.results)
    return Outcome(seconds, made, made - needed, engine.lost + pilots.lost, useful)

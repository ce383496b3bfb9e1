"""The Ray engine: work items as tasks of a Ray cluster (the extra `ray`).

Promised: an item whose worker or node is lost runs again elsewhere (up to `RETRIES` times); an error that the item
itself raises is never retried and comes out as the same exception.  Before any work, every node that can get work must
read a random word that was just written into the output folder, and so must every worker process that comes later.
Workers get this checkout's packages from the driver, one thread each, and a GPU each where the device is one.
When the driver is interrupted the tasks under way are called off; when it is killed, Ray ends them.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError

RETRIES = 5
_PACKAGES = (
    "interfaces", "runtime", "layers", "image_data", "teacher_sampler", "filters", "student_trainer", "classifiers",
    "white_box", "evaluation", "commands",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PROBE_SECONDS = 120.0  # a node may have to unpack the packages first
_CALL_OFF_SECONDS = 10.0
_LOCAL_STORE_BYTES = 128 << 20  # results are small: images go to the folder, not through Ray


@dataclass(frozen=True)
class SharedFolder:
    """A folder in which each node must find the file `marker` with the text `word`.

    `marker` is as the driver names it: where it is relative, so are the paths inside the work items, and the workers
    go to the driver's working folder `start` first.
    """

    start: str
    marker: str
    word: str


def read_marker(folder: SharedFolder) -> str | None:
    """What this node finds in place of the word; None where there is no such file.  Runs on the node."""
    with suppress(OSError):
        os.chdir(folder.start)
    try:
        return Path(folder.marker).read_text()
    except OSError:
        return None


class RayEngine:
    """Runs items on the cluster at `address`: HOST:PORT, `auto` (one running on this machine), or `local` (a new one).

    `folder` is where the items write, created if missing.  `workers` bounds the items that run at once (default: all
    CPUs of the cluster, or all its GPUs where `device` is cuda, or auto with a GPU in the cluster).  `reads` is what a
    node does to look at the shared folder.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        *,
        workers: int | None = None,
        device: str = "cpu",
        reads: Callable[[SharedFolder], str | None] = read_marker,
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"--workers {workers} is too few; give 1 or more.")
        ray = _import_ray()
        began = _connect(ray, address)
        try:
            gpus = _gpus_per_task(device, ray.cluster_resources())
            slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
            if slots < 1:
                raise UserError("--engine ray: the cluster has no free place for work; start nodes with CPUs first.")
            self.workers = min(workers or slots, slots)
            self._most = self.workers if self.workers < slots else 2 * slots
            self._folder = _mark(Path(folder))
        except BaseException:
            _leave(None, began)
            raise
        self._finish = weakref.finalize(self, _leave, self._folder.marker, began)
        resources = {"num_cpus": 1, "num_gpus": gpus, "max_calls": 0}  # 0: a worker keeps the parts that it has built
        self._task = ray.remote(**resources, max_retries=RETRIES, retry_exceptions=False)(_run)
        try:
            _check_nodes(ray, Path(folder), self._folder, gpus, reads)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        self._finish()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield results as they finish.  At most 2 x workers items are taken from `items` ahead of time.

        Raises what an item raised, or UserError where an item lost its worker time and again.
        """
        ray = _import_ray()
        shared = ray.put(function)
        pending: list[Any] = []
        try:
            for item in items:
                pending.append(self._task.remote(self._folder, shared, item))
                if len(pending) >= self._most:
                    done, pending = ray.wait(pending, num_returns=1)
                    yield _result(ray, done[0])
            while pending:
                done, pending = ray.wait(pending, num_returns=1)
                yield _result(ray, done[0])
        finally:
            _call_off(ray, pending)


def check_installed() -> None:
    """UserError where the package ray is missing."""
    _import_ray()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--engine ray needs the package ray; install it (pip install 'retort[ray]') or use --engine local."
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> bool:
    """Join the cluster; False where this process was already part of one, which is then used and not left."""
    if ray.is_initialized():
        return False
    chosen = address or os.environ.get("RAY_ADDRESS")
    if not chosen:
        raise UserError(
            "--engine ray knows no cluster: give --ray-address HOST:PORT (or set RAY_ADDRESS), auto for one that runs "
            "on this machine, or local to start one for this command."
        )
    if chosen.startswith("ray://"):
        raise UserError(f"--ray-address {chosen} is for Ray's client; run this on a node of the cluster and give auto.")
    settings: dict[str, Any] = {"address": chosen, "log_to_driver": False, "logging_level": logging.ERROR}
    if chosen == "local":
        from runtime.devices import usable_cores

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings |= {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
    packages = [str(_ROOT / name) for name in _PACKAGES if (_ROOT / name).is_dir()]
    variables = {**dict.fromkeys(_THREADS, "1"), "RETORT_PROGRESS": "off"}
    environment = {"py_modules": packages, "excludes": ["__pycache__"], "env_vars": variables}
    try:
        ray.init(runtime_env=environment, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--ray-address {chosen}: no cluster was joined ({reason}); start one with `ray start`."
        ) from error
    return True


def _gpus_per_task(device: str, resources: dict[str, float]) -> int:
    there = resources.get("GPU", 0) >= 1
    if device == "auto":
        return int(there)
    if device == "cuda":
        if not there:
            raise UserError(
                "--device cuda with --engine ray: the cluster has no GPU; use --device cpu, or add a GPU node."
            )
        return 1
    if device.startswith("cuda"):
        raise UserError(
            f"--device {device} with --engine ray: Ray gives each task a GPU of its own; use --device cuda."
        )
    return 0


def _mark(folder: Path) -> SharedFolder:
    """Write a fresh random word into the folder; marks of drivers of this machine that were killed are removed."""
    host, word = socket.gethostname(), secrets.token_hex(16)
    marker = folder / f".nodes-{host}-{os.getpid()}-{word[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f".nodes-{host}-*"):
            pid = old.name.removeprefix(f".nodes-{host}-").split("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                old.unlink(missing_ok=True)
        marker.write_text(word)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    return SharedFolder(os.getcwd(), str(marker), word)


def _leave(marker: str | None, began: bool) -> None:
    if marker is not None:
        with suppress(OSError):
            Path(marker).unlink(missing_ok=True)
    if began:
        _import_ray().shutdown()


def _check_nodes(
    ray: Any, folder: Path, shared: SharedFolder, gpus: int, reads: Callable[[SharedFolder], str | None]
) -> None:
    """UserError naming the first node that could get work and does not see the folder."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = "GPU" if gpus else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(wanted, 0) >= 1]
    look = ray.remote(num_cpus=0, max_retries=RETRIES)(_look)  # needs no free CPU, so a busy cluster answers too
    asked = {}
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeManagerAddress"], node["NodeID"]] = look.options(scheduling_strategy=pinned).remote(
            reads, shared
        )
    for (address, name), answer in asked.items():
        place = f"node {address} ({name[:8]})"
        try:
            word = ray.get(answer, timeout=_PROBE_SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"--engine ray: {place} runs no task ({reason}); mend or remove it.") from error
        if word != shared.word:
            raise UserError(
                f"{folder} is not shared by all nodes: {place} does not see what was just written there; give a folder "
                f"that every node mounts under the same name."
            )


def _look(reads: Callable[[SharedFolder], str | None], shared: SharedFolder) -> str | None:
    return reads(shared)


_entered: set[str] = set()  # marker words that this worker process has checked


def _run(folder: SharedFolder, function: Callable[[Any], Any], item: Any) -> Any:
    """One item, in a worker process.  A node that joined after the check must see the folder too."""
    if folder.word not in _entered:
        if read_marker(folder) != folder.word:
            name = socket.gethostname()
            raise UserError(
                f"{Path(folder.marker).parent} is not shared by all nodes: {name} joined and does not see it; remove "
                f"that node or mount the folder there, and run the same command again to continue."
            )
        _entered.add(folder.word)
    return function(item)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a work item lost its worker {RETRIES + 1} times ({type(error).__name__}: out of memory, or killed); run "
            f"the same command again to continue."
        ) from error


def _call_off(ray: Any, pending: list[Any]) -> None:
    """Cancel what has not finished and wait until nothing of it writes any more."""
    if not pending or not ray.is_initialized():
        return
    with suppress(ray.exceptions.RayError):
        for reference in pending:
            ray.cancel(reference)
        ray.wait(pending, num_returns=len(pending), timeout=_CALL_OFF_SECONDS)

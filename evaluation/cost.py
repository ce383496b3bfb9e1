"""What a network costs: parameters, multiply-adds and measured latency, as numbers and as a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.table import Column, Table, table_text


@dataclass(frozen=True)
class Cost:
    """`macs` are multiply-adds for one item; latencies are of one call, in milliseconds, with `threads` threads.

    The first pair of latencies is at batch 1, the second at `batch` items.
    """

    parameters: int
    macs: int
    latency_p50_ms: float
    latency_p95_ms: float
    batch: int
    batch_latency_p50_ms: float
    batch_latency_p95_ms: float
    threads: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def parameter_count(module: torch.nn.Module) -> int:
    """Trained numbers; buffers (running statistics) are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: torch.nn.Module, example_inputs: Sequence[torch.Tensor]) -> int:
    """Multiply-adds of convolutions, linears and matrix products for one item: half of torch's flop count.

    Additions of biases, norms and activations are not counted, as is usual.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*(value[:1] for value in example_inputs))
    return counter.get_total_flops() // 2


@torch.inference_mode()
def latency_ms(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], *, calls: int = 50, seconds: float = 2.0
) -> tuple[float, float]:
    """Median and 95th percentile of one call: after warming up, up to `calls` calls or `seconds` of them."""
    cuda = inputs[0].device.type == "cuda"
    for _ in range(3):
        module(*inputs)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (len(times) < calls and time.perf_counter() - begin < seconds):
        if cuda:
            torch.cuda.synchronize(inputs[0].device)
        start = time.perf_counter()
        module(*inputs)
        if cuda:
            torch.cuda.synchronize(inputs[0].device)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.percentile(times, 50)), float(np.percentile(times, 95))


def network_cost(
    module: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor],
    threads: int = 1,
    *,
    batch: int = 64,
    calls: int = 50,
    seconds: float = 2.0,
) -> Cost:
    """Measure `module(*example_inputs)` in evaluation mode; the first dimension of every input is the batch.

    The inputs' first items are used at batch 1 and repeated to `batch`; the module and the inputs are on one device.
    Thread count and training mode are put back afterwards.
    """
    if not example_inputs or any(not len(value) for value in example_inputs):
        raise ValueError("example inputs must hold at least one item each")
    single = [value[:1] for value in example_inputs]
    many = [value[:1].repeat(batch, *[1] * (value.ndim - 1)) for value in example_inputs]
    before, training = torch.get_num_threads(), module.training
    module.eval()
    torch.set_num_threads(threads)
    try:
        macs = multiply_adds(module, single)
        one, block = (latency_ms(module, inputs, calls=calls, seconds=seconds) for inputs in (single, many))
    finally:
        torch.set_num_threads(before)
        module.train(training)
    device = str(example_inputs[0].device)
    return Cost(parameter_count(module), macs, *one, batch, *block, threads=threads, device=device)


def generator_costs(generators: Mapping[str, Any], batch_size: int = 64) -> dict[str, dict[str, Any]]:
    """`Cost` as JSON of each generator that is there (None: it is not) and no black box."""
    costs = {}
    for name, generator in generators.items():
        if getattr(generator, "network", None) is None:
            continue
        space = generator.label_space
        labels = np.zeros(batch_size, dtype=np.int64) if space.kind == "classes" else np.full(batch_size, space.low)
        latents = torch.zeros(batch_size, int(generator.card.latent["dimension"]))
        inputs = (latents.to(generator.device), space.encode(labels).to(generator.device))
        costs[name] = network_cost(generator.network, inputs).to_json()
    return costs


def cost_table(costs: Mapping[str, Mapping[str, Any]], title: str = "Size and speed") -> Table:
    """One row for each named network (`Cost` as JSON); latencies of one call."""
    nothing: Mapping[str, Any] = {"batch": 0, "threads": 1, "device": "cpu"}
    first = next(iter(costs.values()), nothing)
    columns = {
        "parameters": Column("parameters", "thousand", scale=1e-3, better="lower", bars=True),
        "macs": Column("multiply-adds", "million", decimals=2, scale=1e-6, better="lower", bars=True),
        "latency_p50_ms": Column("one image", "ms", decimals=2, better="lower"),
        "latency_p95_ms": Column("one image, p95", "ms", decimals=2),
        "batch_latency_p50_ms": Column(f"batch of {first['batch']}", "ms", better="lower"),
    }
    rows = [[name, *(cost[key] for key in columns)] for name, cost in costs.items()]
    device, noun = first["device"].replace("cpu", "the CPU"), "thread" if first["threads"] == 1 else "threads"
    caption = f"Median latency of one call on {device} with {first['threads']} {noun}."
    if {"teacher", "student"} <= set(costs):
        times = costs["teacher"]["parameters"] / costs["student"]["parameters"]
        caption += f" The student has {times:.1f} times fewer parameters than the teacher."
    return Table(title, [Column("network", numeric=False), *columns.values()], rows, caption=caption)


def cost_text(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for a terminal; "" for none."""
    table = cost_table(costs)
    return f"{table_text(table)}\n{table.caption}" if costs else ""

"""How much an ONNX program can be asked to do, counted before any of it is run.

Promised: a program that passes has at most MOST_NODES nodes once its functions are written out, which is counted
without writing them out, and runs at most MOST_RUNS of them, loops included.  A loop must say how often it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UserError

MOST_NODES = 100_000  # the largest published generators have some 10,000
MOST_RUNS = 1_000_000
_DEEPEST = 32  # of functions that call functions, and graphs in graphs
_DOMAINS = ("", "ai.onnx")


class _Refused(Exception):
    """The message completes "the file is refused: ..."."""


def check_work(model: Any, path: Path) -> None:
    """UserError naming the file where the work is too much, or the length of a loop is unknown."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counter = _Counter(functions)
    try:
        nodes, runs = counter.graph(model.graph, {}, 0)
        if nodes > MOST_NODES or runs > MOST_RUNS:
            raise _Refused(
                f"it has {_large(nodes)} nodes with its functions written out and runs {_large(runs)} of them, "
                f"where {MOST_NODES:,} and {MOST_RUNS:,} are the most"
            )
    except _Refused as error:
        raise UserError(f"{path} is refused: {error}; export the generator as a plain graph.") from error


class _Counter:
    """Counts (nodes when written out, nodes run), each function once."""

    def __init__(self, functions: Mapping[tuple[str, str], Any]) -> None:
        self.functions = functions
        self._known: dict[tuple[str, str], tuple[int, int]] = {}
        self._open: set[tuple[str, str]] = set()

    def graph(self, graph: Any, outer: Mapping[str, int], depth: int) -> tuple[int, int]:
        constants = dict(outer)
        for tensor in graph.initializer:
            if (value := _whole_number(tensor)) is not None:
                constants[tensor.name] = value
        for value in graph.input:  # what is given from outside may be anything
            constants.pop(value.name, None)
        return self._nodes(graph.node, constants, depth)

    def _nodes(self, nodes: Iterable[Any], constants: dict[str, int], depth: int) -> tuple[int, int]:
        if depth > _DEEPEST:
            raise _Refused(f"its functions or graphs are nested more than {_DEEPEST} deep")
        total = runs = 0
        for node in nodes:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    value = attribute.i if attribute.name == "value_int" else _whole_number(attribute.t)
                    if value is not None:
                        constants[node.output[0]] = value
            inside = [self.graph(graph, constants, depth + 1) for graph in _graphs(node)]
            if (node.domain, node.op_type) in self.functions:
                inside.append(self._function((node.domain, node.op_type), depth + 1))
            times = self._times(node, constants)
            total += 1 + sum(count for count, _ in inside)
            runs += 1 + times * sum(count for _, count in inside)
            if total > 1 << 80 or runs > 1 << 160:
                raise _Refused("its functions or loops multiply endlessly")
        return total, runs

    def _function(self, name: tuple[str, str], depth: int) -> tuple[int, int]:
        if name in self._open:
            raise _Refused("a function of it calls itself")
        if name not in self._known:
            self._open.add(name)
            self._known[name] = self._nodes(self.functions[name].node, {}, depth)
            self._open.remove(name)
        return self._known[name]

    def _times(self, node: Any, constants: Mapping[str, int]) -> int:
        """How often the graphs inside a node run."""
        if node.op_type != "Loop" or node.domain not in _DOMAINS:
            return 1
        most = constants.get(node.input[0]) if node.input and node.input[0] else None
        if most is None:
            raise _Refused("it has a loop that does not say how often it runs")
        if most > MOST_RUNS:
            raise _Refused(f"it has a loop that may run {_large(most)} times")
        return max(0, most)


def _graphs(node: Any) -> list[Any]:
    return [graph for item in node.attribute for graph in (*([item.g] if item.HasField("g") else []), *item.graphs)]


def _whole_number(tensor: Any) -> int | None:
    """The value of a tensor of one int64 or int32; None for any other."""
    dims = list(tensor.dims)
    if tensor.data_type not in (6, 7) or len(dims) > 1 or (dims and dims != [1]):
        return None
    if tensor.raw_data:
        kind = np.dtype("<i8" if tensor.data_type == 7 else "<i4")
        data = tensor.raw_data
        return int(np.frombuffer(data, kind)[0]) if len(data) == kind.itemsize else None
    numbers = tensor.int64_data if tensor.data_type == 7 else tensor.int32_data
    return int(numbers[0]) if len(numbers) == 1 else None


def _large(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"more than 10^{len(str(number)) - 1}"

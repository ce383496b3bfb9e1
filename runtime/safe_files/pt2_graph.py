"""Running an exported program's graph, node by node, with torch's own operators and nothing else.

The graph is JSON (torch._export.serde.schema).  Allowed are operators of torch.ops.aten that compute tensors from
tensors, arithmetic on sizes, and graphs wrapped for their gradient mode.  Refused are operators that draw random
numbers, swap storages or open files, all other namespaces, and everything that is not plain data.  Memory that a
program leaves uninitialised is zero here.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from runtime.safe_files.pt2_archive import DTYPES

_ATEN = re.compile(r"torch\.ops\.aten\.(_?[a-z][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)")
_GRADIENT_MODE = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_WORDS = re.compile(r"[A-Za-z0-9 _,.>\-]{0,200}")  # of string arguments: modes, and equations of einsum
_MAX_DEPTH = 16
_LARGEST_SIZE = 2**62
# Kernels of their own that are neither core nor pointwise, and that generators use.
_MORE = frozenset(
    {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "baddbmm", "baddbmm_", "addmm_", "addbmm", "hardswish",
     "hardswish_", "glu", "linalg_vector_norm", "std", "std_mean", "var_mean", "lift_fresh_copy", "roll", "tril",
     "triu", "im2col", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
     "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "repeat_interleave",
     "replication_pad2d", "reflection_pad1d", "native_group_norm", "native_layer_norm", "_native_batch_norm_legit",
     "_scaled_dot_product_flash_attention_for_cpu"}
)  # fmt: skip
_UNINITIALISED = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted"})
_REFUSED = ("resize", "_resize", "set", "from_file", "_print", "_nnpack", "_test", "record_stream")
_CHECKS = ("_assert_", "_functional_assert", "sym_constrain_range", "_functional_sym_constrain")  # nothing to compute
_MEMORY_FORMATS: Mapping[int, torch.memory_format] = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_SIZE_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le", "gt",
                     "ge", "and_", "or_")
    },
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_not": operator.not_,
    "torch.sym_max": max,
    "torch.sym_min": min,
}  # fmt: skip


class GraphProgram:
    """A checked graph with its tensors.  `run` takes the user's inputs in order and returns its only output.

    ValueError (also KeyError, TypeError) with a reason where the program is not of the kind that is run here.
    """

    def __init__(self, program: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        module = program["graph_module"]
        self._graph, self._device = module["graph"], device
        self.inputs: list[str] = []
        self._fixed: dict[str, Any] = {}
        for spec in module["signature"]["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                self.inputs.append(str(entry["arg"]["as_tensor"]["name"]))
            elif kind in ("parameter", "buffer", "tensor_constant"):
                name = entry[f"{kind}_name"]
                self._fixed[entry["arg"]["name"]] = tensors[name].to(device)
            elif kind == "constant_input":
                self._fixed[entry["name"]] = _constant(entry["value"])
            else:
                raise ValueError(f"it takes an input of kind {str(kind)[:40]!r}")
        kinds = [kind for spec in module["signature"]["output_specs"] for kind in spec]
        if kinds != ["user_output"]:
            raise ValueError("it has not one output, or changes its own buffers: export it in eval mode")
        self._calls = {id(node): self._check(node) for node in _all_nodes(self._graph)}

    def sizes(self, name: str) -> tuple[torch.dtype, list[int | str]]:
        """Type and sizes of a tensor of the outermost graph; an unknown size is the text of its expression."""
        meta = self._graph["tensor_values"][name]
        sizes = [size["as_int"] if "as_int" in size else str(size["as_expr"]["expr_str"]) for size in meta["sizes"]]
        return DTYPES[meta["dtype"]], sizes

    def embedding_rows(self, name: str) -> int | None:
        """Rows of the embedding that is looked up by the input of this name."""
        for node in self._graph["nodes"]:
            if node["target"] == "torch.ops.aten.embedding.default":
                weight, index = _names_in(node["inputs"])[:2]
                if index == name and weight in self._fixed:
                    return len(self._fixed[weight])
        return None

    def run(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The output; ValueError where the program changed its own weights, and whatever torch's operators raise."""
        given = {name: value.to(self._device) for name, value in zip(self.inputs, values, strict=True)}
        before = [value._version for value in self._fixed.values() if isinstance(value, torch.Tensor)]
        outputs = self._run(self._graph, {**self._fixed, **given})
        if before != [value._version for value in self._fixed.values() if isinstance(value, torch.Tensor)]:
            raise ValueError("it changes its own weights: export it in eval mode")
        (output,) = outputs
        if not isinstance(output, torch.Tensor):
            raise ValueError("its output is no tensor")
        return output

    def _run(self, graph: Mapping[str, Any], names: dict[str, Any]) -> list[Any]:
        last_use = {name: place for place, node in enumerate(graph["nodes"]) for name in _names_in(node["inputs"])}
        kept = set(_names_in(graph["outputs"])) | set(self._fixed)
        for place, node in enumerate(graph["nodes"]):
            call = self._calls[id(node)]
            if call is not None:
                self._bind(node["outputs"], self._node(call, node, names), names)
            for name in set(_names_in(node["inputs"])):
                if last_use[name] == place and name not in kept:
                    names.pop(name, None)  # so that memory stays that of the program
        return [self._value(output, names) for output in graph["outputs"]]

    def _node(self, call: Callable[..., Any], node: Mapping[str, Any], names: dict[str, Any]) -> Any:
        if node["target"] == _GRADIENT_MODE:
            _, graph, *values = [item["arg"] for item in node["inputs"]]
            inner = graph["as_graph"]["graph"]
            bound = dict(zip(_names_in(inner["inputs"]), (self._value(value, names) for value in values), strict=True))
            return self._run(inner, bound)
        positional = [self._value(item["arg"], names) for item in node["inputs"] if not item["name"]]
        named = {item["name"]: self._value(item["arg"], names) for item in node["inputs"] if item["name"]}
        if node["target"] in _SIZE_FUNCTIONS:
            return _size(call(*(_size(number) for number in (*positional, *named.values()))))
        return call(*positional, **named)

    def _bind(self, outputs: Sequence[Mapping[str, Any]], value: Any, names: dict[str, Any]) -> None:
        if len(outputs) == 1 and set(outputs[0]) == {"as_tensors"}:
            outputs = [{"as_tensor": item} for item in outputs[0]["as_tensors"]]
            value = list(value)
        elif len(outputs) == 1:
            value = list(value) if isinstance(value, list | tuple) else [value]
        for output, item in zip(outputs, list(value) if outputs else [], strict=True):
            for name in _names_in([output]):
                names[name] = item

    def _value(self, argument: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return _one(value, names)
        if kind in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"):
            return [_one(item, names) for item in value]
        if kind in ("as_int", "as_float", "as_bool"):
            return float(value) if kind == "as_float" else value  # "Infinity" and "NaN" are written as texts
        if kind in ("as_ints", "as_bools"):
            return list(value)
        if kind == "as_floats":
            return [float(item) for item in value]
        if kind == "as_string":
            return value
        if kind == "as_scalar_type":
            return DTYPES[value]
        if kind == "as_memory_format":
            return _MEMORY_FORMATS[value]
        if kind == "as_layout" and value == 7:
            return torch.strided
        if kind == "as_device":
            return self._device
        raise ValueError(f"it passes an argument of kind {str(kind)[:40]!r}")

    def _check(self, node: Mapping[str, Any]) -> Callable[..., Any] | None:
        """What a node calls; None where it only states something of sizes."""
        target = node["target"]
        for text in (item["arg"]["as_string"] for item in node["inputs"] if "as_string" in item["arg"]):
            if not isinstance(text, str) or not _WORDS.fullmatch(text):
                raise ValueError(f"operator {str(target)[:80]!r} gets the text {str(text)[:40]!r}")
        if target in _SIZE_FUNCTIONS:
            return _SIZE_FUNCTIONS[target]
        if target == _GRADIENT_MODE:
            return torch.no_grad
        match = _ATEN.fullmatch(target)
        if match is None:
            raise ValueError(f"it uses {str(target)[:80]!r}, which is no plain operator of torch")
        name, overload = match.groups()
        if name.startswith(_CHECKS):
            return None
        return _operator(name, overload, node)


def _operator(name: str, overload: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():
        raise ValueError(f"this version of torch has no operator aten.{name}.{overload}")
    call: Any = getattr(packet, overload)
    if torch.Tag.nondeterministic_seeded in call.tags and not _switched_off(call, node):
        raise ValueError(f"it draws random numbers inside (aten.{name}): export it without noise or with fixed noise")
    plain = any(
        torch._C._dispatch_has_kernel_for_dispatch_key(call.name(), key)
        for key in ("CompositeImplicitAutograd", "CompositeExplicitAutograd")
    )
    known = plain or torch.Tag.core in call.tags or torch.Tag.pointwise in call.tags or name in _MORE
    if (not known and name not in _UNINITIALISED) or name.startswith(_REFUSED):
        raise ValueError(f"it uses aten.{name}, which no generator needs")
    if name in _UNINITIALISED:
        return lambda *positional, **named: call(*positional, **named).zero_()
    checked: Callable[..., Any] = call
    return checked


def _switched_off(call: Any, node: Mapping[str, Any]) -> bool:
    """Whether the arguments turn an operator's random numbers (dropout, attention) off."""
    given = {item["name"]: next(iter(item["arg"].values())) for item in node["inputs"]}
    for argument in call._schema.arguments:
        if argument.name in ("train", "training", "dropout_p"):
            value = given.get(argument.name, argument.default_value)
            return isinstance(value, bool | int | float) and not value
    return False


def _all_nodes(graph: Mapping[str, Any], depth: int = 0) -> list[Mapping[str, Any]]:
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    nodes = list(graph["nodes"])
    for node in graph["nodes"]:
        for item in node["inputs"]:
            if "as_graph" in item["arg"]:
                nodes += _all_nodes(item["arg"]["as_graph"]["graph"], depth + 1)
    return nodes


def _names_in(arguments: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of values that arguments (of a node: under "arg") refer to, in order."""
    names: list[str] = []
    for item in arguments:
        ((kind, value),) = item.get("arg", item).items()
        if kind in ("as_graph", "as_none"):
            continue
        for entry in value if isinstance(value, list) else [value]:
            inner = entry.get("as_tensor", entry) if isinstance(entry, dict) else {}
            name = inner.get("name", inner.get("as_name"))
            if name is not None:
                names.append(str(name))
    return names


def _one(value: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    if "as_none" in value:
        return None
    if "as_tensor" in value:
        value = value["as_tensor"]
    for kind in ("name", "as_name"):
        if kind in value:
            return names[value[kind]]
    ((_, number),) = value.items()
    return _size(number)


def _size(number: Any) -> Any:
    if isinstance(number, bool | float):
        return number
    if not isinstance(number, int) or abs(number) > _LARGEST_SIZE:
        raise ValueError("a size is no number")
    return number


def _constant(value: Mapping[str, Any]) -> Any:
    ((kind, constant),) = value.items()
    if kind not in ("as_none", "as_int", "as_float", "as_bool"):
        raise ValueError(f"it takes a constant of kind {str(kind)[:40]!r}")
    return None if kind == "as_none" else constant

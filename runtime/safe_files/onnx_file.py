"""A program in an ONNX file, run by onnxruntime.

A model is looked at before onnxruntime sees it: all of its weights lie inside, and it holds standard operators only,
none of which draws random numbers.  onnxruntime gets the bytes that were looked at, never a path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.safe_files.onnx_work import check_work
from runtime.safe_files.plain import MissingFile, check_fits_memory, check_regular
from runtime.safe_files.program import ProgramInput

MODEL_FILE = "model.onnx"
INSTALL = "pip install onnx onnxruntime"
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
)  # fmt: skip
_LARGEST_BYTES = 2 << 30  # of one protobuf message
_MAX_DEPTH = 32  # of graphs within graphs


class OnnxProgram:
    """An ONNX model that passed the checks.  The session is built on the first call, in the process that calls."""

    def __init__(self, path: Path, device: torch.device, output_dims: int = 4) -> None:
        """Read, name and look at the file; UserError naming it where it is damaged or refused.

        `output_dims`: of several outputs the only one with so many dimensions is taken: 4 images, 2 logits.
        """
        self.path, self.device = path, device
        raw = _read(path)
        self.sha256 = hashlib.sha256(raw).hexdigest()
        model = _parse(raw, path)
        check_model(model, path)
        check_work(model, path)
        self._embeddings = _embeddings(model)
        self._bytes: bytes = model.SerializeToString()
        self.inputs = tuple(_inputs(model, path))
        self.batch = _batch(self.inputs, path)
        self.output = _output(model, path, output_dims)
        self._sessions: dict[int, Any] = {}  # by number of threads, since bits may depend on it

    def __call__(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        feeds = {name: value.cpu().numpy() for name, value in values.items()}
        try:
            (output,) = self._session().run([self.output], feeds)
        except Exception as error:  # onnxruntime has many types
            raise UserError(f"{self.path} fails in onnxruntime ({_first_line(error)}); export it again.") from error
        return torch.from_numpy(np.ascontiguousarray(output))

    def classes(self, name: str) -> int | None:
        """Rows of the table that the input picks from."""
        return self._embeddings.get(name)

    def _session(self) -> Any:
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions.clear()
            self._sessions[threads] = self._build(threads)
        return self._sessions[threads]

    def _build(self, threads: int) -> Any:
        runtime = _library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # the exception reports what goes wrong
        providers = ["CPUExecutionProvider"]
        if self.device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        return runtime.InferenceSession(self._bytes, options, providers=providers, enable_fallback=0)


def check_model(model: Any, path: Path) -> None:
    """UserError naming the file where the model needs other files, foreign operators or random numbers."""
    local = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model, path):
        if (node.domain, node.op_type) not in local and node.domain not in _DOMAINS:
            raise UserError(
                f"{path} is refused: operator {node.op_type} is of the custom domain {node.domain[:60]!r}; "
                f"export it with standard operators only."
            )
        if node.op_type in _RANDOM and node.domain in _DOMAINS:
            raise UserError(
                f"{path} draws random numbers inside ({node.op_type}); an image must follow from its latents and label "
                f"alone, so export it without noise or with fixed noise."
            )


def _nodes(model: Any, path: Path) -> Iterator[Any]:
    """Every node of the model, those of functions and inner graphs too; every tensor on the way is checked."""
    graphs = [(model.graph, 0)]
    graphs += [(graph, 0) for info in model.training_info for graph in (info.initialization, info.algorithm)]
    lists = [(function.node, 0) for function in model.functions]
    lists += [([default], 0) for function in model.functions for default in _as_nodes(function.attribute_proto)]
    while graphs or lists:
        if graphs:
            graph, depth = graphs.pop()
            for tensor in graph.initializer:
                _check_tensor(tensor, path)
            for sparse in graph.sparse_initializer:
                _check_tensor(sparse.values, path)
                _check_tensor(sparse.indices, path)
            lists.append((graph.node, depth))
            continue
        nodes, depth = lists.pop()
        if depth > _MAX_DEPTH:
            raise UserError(f"{path} is refused: its graphs are nested too deeply; export it again.")
        for node in nodes:
            yield node
            for attribute in node.attribute:
                tensors = [attribute.t, *attribute.tensors]
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    tensors += [sparse.values, sparse.indices]
                for tensor in tensors:
                    _check_tensor(tensor, path)
                inner = [attribute.g] if attribute.HasField("g") else []
                graphs += [(graph, depth + 1) for graph in (*inner, *attribute.graphs)]


def _as_nodes(attributes: Any) -> list[Any]:
    """Default attributes of a function, in the shape of a node, so that they are walked like any others."""
    return [_library("onnx").NodeProto(op_type="Identity", attribute=attributes)] if attributes else []


def _check_tensor(tensor: Any, path: Path) -> None:
    if tensor.data_location != 0 or tensor.external_data:
        raise UserError(
            f"{path} is refused: tensor {tensor.name[:60]!r} lies in another file; export the "
            f"model with external_data=False, or save it as one file."
        )


def _read(path: Path) -> bytes:
    remedy = "give the path of an ONNX file"
    try:
        size = check_regular(path, remedy)
        if size > _LARGEST_BYTES:
            raise UserError(f"{path} is larger than 2 GiB, which no ONNX model in one file is; {remedy}.")
        check_fits_memory(path, 3 * size, remedy)
        return path.read_bytes()
    except MissingFile as error:
        raise UserError(f"{path} is missing; restore it or import the teacher again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); give the path of an ONNX file.") from error


def _parse(raw: bytes, path: Path) -> Any:
    onnx = _library("onnx")
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(raw)
    except (DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or is no ONNX model ({_first_line(error)}); restore it.") from error
    model.DiscardUnknownFields()  # what this version does not know, the runtime might
    if not model.graph.node or not model.opset_import:
        raise UserError(f"{path} holds no ONNX graph; give the file of an exported generator.")
    del model.metadata_props[:]  # may hold settings of the runtime
    return model


def _inputs(model: Any, path: Path) -> Iterator[ProgramInput]:
    onnx = _library("onnx")
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise UserError(f"{path}: input {value.name[:60]!r} is no tensor of a known shape; export it again.")
        tensor = value.type.tensor_type
        try:
            dtype = torch.from_numpy(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))).dtype
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: input {value.name[:60]!r} is no tensor of numbers; export it again.") from error
        sizes = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
        yield ProgramInput(value.name, dtype, sizes)


def _embeddings(model: Any) -> dict[str, int]:
    """Name of a value -> rows of the stored table from which it picks."""
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
    gathers = [node for node in model.graph.node if node.op_type == "Gather" and not node.domain]
    return {node.input[1]: int(rows[node.input[0]]) for node in gathers if node.input[0] in rows}


def _batch(inputs: tuple[ProgramInput, ...], path: Path) -> tuple[int, int | None]:
    flat = [str(slot) for slot in inputs if not slot.sizes]
    if flat:
        raise UserError(
            f"{path}: its input {flat[0]} is one value for all images (a truncation, a noise, a switch); fix it before "
            f"the export, so that the inputs left are latents and labels."
        )
    open_ended = any(slot.sizes[0] is None for slot in inputs)
    fixed = {slot.sizes[0] for slot in inputs if slot.sizes[0] is not None}
    if len(fixed) > 1 or (open_ended and fixed == {1}):
        odd = next((str(slot) for slot in inputs if slot.sizes[0] == 1), str(inputs[-1]))
        raise UserError(
            f"{path}: its inputs {', '.join(map(str, inputs))} have no common batch; {odd} may be one value for all "
            f"images: fix it before the export, or give all inputs one batch dimension."
        )
    size = next(iter(fixed), None)
    return (1, None) if size is None else (size, size)


def _output(model: Any, path: Path, dims: int) -> str:
    """The name of the output of so many dimensions, if it is the only one, or of the only one at all."""
    outputs = list(model.graph.output)
    if len(outputs) > 1:
        outputs = [value for value in outputs if len(value.type.tensor_type.shape.dim) == dims]
    if len(outputs) != 1:
        wanted = "images, N x C x H x W" if dims == 4 else "N x classes"
        raise UserError(f"{path} has not one output of {wanted}; export it with that one.")
    return str(outputs[0].name)


def _library(name: str) -> Any:
    """An optional library, imported on first use."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"ONNX teachers need the library {name}; {INSTALL}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")

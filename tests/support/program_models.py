"""Generators as programs, for the tests of black boxes: exported by torch, and ONNX graphs built by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from interfaces import Teacher
from runtime.seeds import label_bits
from teacher_sampler import load_teacher
from teacher_sampler.black_box.program_importing import import_exported, import_onnx
from teacher_sampler.black_box.programs import ProgramTeacher
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.writing import teacher_card, write_teacher
from tests.support.tiny_sampling import save_tiny_teacher
from training.generator_folder import NetworkGenerator

CPU = torch.device("cpu")
LATENT = 5
SIDE = 4


def tiny_network(folder: Path, space: Any) -> NetworkGenerator:
    """Our own untrained 16 x 16 BigGAN, loaded as users load it."""
    found = load_teacher(save_tiny_teacher(folder, space), CPU)
    assert isinstance(found, NetworkGenerator)
    return found


def example_inputs(teacher: NetworkGenerator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and encoded labels."""
    generator = torch.Generator().manual_seed(count)
    latents = torch.randn(count, int(teacher.card.latent["dimension"]), generator=generator)
    if teacher.label_space.kind == "classes":
        return latents, torch.randint(teacher.label_space.width, (count,), generator=generator)
    return latents, torch.rand(count, teacher.label_space.width, generator=generator)


def export_onnx(network: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, batch: int | None = None) -> Path:
    """What a user writes: torch's own exporter, one file.  `batch`: a fixed one, or None for any."""
    shapes = None if batch is not None else tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False,
            input_names=["z", "y"][: len(inputs)], output_names=["images"],
        )  # fmt: skip
    return path


def export_pt2(network: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, batch: Any = "any") -> Path:
    """torch.export.save; `batch`: "any", None for the fixed one of the inputs, or a Dim."""
    if batch == "any":
        batch = torch.export.Dim("batch", min=1)
    shapes = None if batch is None else tuple({0: batch} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network.eval(), inputs, dynamic_shapes=shapes)
        torch.export.save(program, path)
    return path


def imported(folder: Path, program: Path, **wishes: Any) -> ProgramTeacher:
    """What `import-teacher` makes of a program, loaded again."""
    request = ImportRequest(checkpoint=str(program), **wishes)
    found = (import_onnx if program.suffix == ".onnx" else import_exported)(request)
    write_teacher(folder, found, teacher_card(found, request, {}))
    teacher = load_teacher(folder, CPU)
    assert isinstance(teacher, ProgramTeacher)
    assert isinstance(teacher, Teacher)
    return teacher


def drawn(teacher: Teacher, labels: np.ndarray, first_k: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(images, latents) of one candidate of each label."""
    keys = np.stack([label_bits(labels), first_k + np.arange(len(labels))], axis=1)
    latents = teacher.latents(keys, 7)
    return teacher.generate(latents, labels, keys, 7), latents


class Conv(nn.Module):
    """A small generator with as many kinds of operators as foreign ones have; labels are class indices."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(classes, 6)
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(LATENT + 6, 8 * 16))
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8)])
        self.transposed = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.shuffled = nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect")
        self.register_buffer("ramp", torch.linspace(0, 1, 8), persistent=False)
        self.scales = torch.linspace(-1, 1, 20)[6:14]  # a view into a longer storage

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        h = self.linear(torch.cat([z, self.embedding(y)], 1)).view(z.shape[0], 8, 4, 4)
        h = F.gelu(self.norms[0](h), approximate="tanh") * self.ramp[:, None, None]
        h = F.interpolate(self.norms[1](F.leaky_relu(h, 0.2, inplace=True)), scale_factor=0.5, mode="bilinear")
        h = self.transposed(F.pad(h, (1, 1, 1, 1))[:, :, 1:-1, 1:-1])
        tokens = h.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        with torch.no_grad():
            h = tokens.transpose(1, 2).reshape(h.shape) + torch.einsum("nchw,c->nchw", h, self.scales)
        first, second = F.dropout(self.norms[2](h), 0.5, self.training).chunk(2, dim=1)
        h = torch.where(first > 0, first, F.silu(second))
        return torch.tanh(F.pixel_shuffle(self.shuffled(torch.cat([h, second], 1)), 2))


def onnx_model(
    path: Path,
    nodes: list[Any],
    inputs: list[tuple[str, int, list[Any]]],
    output: tuple[int, list[Any]] = (TensorProto.FLOAT, ["N", 1, SIDE, SIDE]),
    weights: dict[str, np.ndarray] | None = None,
    **changes: Any,
) -> Path:
    """A graph of these nodes, whose images are called "images"."""
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("images", *output)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), *changes.pop("opsets", [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, **changes)
    path.write_bytes(model.SerializeToString())
    return path


def linear_onnx(
    path: Path,
    label: tuple[str, int, list[Any]],
    *,
    batch: Any = "N",
    latents: list[Any] | None = None,
    last: list[Any] | None = None,
    **changes: Any,
) -> Path:
    """images = tanh(z W) + mean of the label (as floats), so that a test can work every pixel out."""
    weights = {"W": latent_weights(), "shape": np.array([-1, 1, SIDE, SIDE]), "wide": np.array([-1, 1, 1, 1])}
    weights |= {"flat": np.array([-1, LATENT]), "per": np.array([-1, _width(label)])}
    nodes = [
        helper.make_node("Reshape", ["z", "flat"], ["z2"]),
        helper.make_node("MatMul", ["z2", "W"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["base"]),
        helper.make_node("Cast", [label[0]], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["yf", "per"], ["yr"]),
        helper.make_node("Mul", ["yr", "steps"], ["ys"]),
        helper.make_node("ReduceSum", ["ys", "axes"], ["ym"], keepdims=1),
        helper.make_node("Reshape", ["ym", "wide"], ["yw"]),
        helper.make_node("Add", ["base", "yw"], ["images"]),
    ]
    weights |= {"steps": label_steps(_width(label)), "axes": np.array([1])}
    if last is not None:
        nodes[-1].output[0] = "raw"
        nodes += last
    inputs = [("z", TensorProto.FLOAT, latents or [batch, LATENT]), label]
    output = changes.pop("output", (TensorProto.FLOAT, [batch, 1, SIDE, SIDE]))
    return onnx_model(path, nodes, inputs, output, weights | changes.pop("weights", {}), **changes)


def _width(label: tuple[str, int, list[Any]]) -> int:
    width = label[2][1] if len(label[2]) > 1 else 1
    return width if isinstance(width, int) else 1


def latent_weights() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.5, (LATENT, SIDE * SIDE)).astype(np.float32)


def label_steps(width: int) -> np.ndarray:
    """What each class, or a value of 1, adds to every pixel."""
    return (0.1 * (1 + np.arange(width, dtype=np.float32)))[None]


def linear_images(latents: np.ndarray, added: np.ndarray) -> np.ndarray:
    """What `linear_onnx` gives: N x 1 x 4 x 4."""
    base = np.tanh(latents @ latent_weights()).reshape(-1, 1, SIDE, SIDE)
    return (base + added.reshape(-1, 1, 1, 1)).astype(np.float32)

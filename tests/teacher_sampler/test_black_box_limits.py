"""Programs without labels, with values that belong to no image, and with more work than a generator needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from image_data.labels import ClassLabels
from runtime.errors import UserError
from runtime.safe_files.onnx_file import OnnxProgram
from runtime.trial import run_limited
from teacher_sampler import load_teacher
from teacher_sampler.black_box.program_importing import import_exported, import_onnx
from teacher_sampler.importers.registry import ImportRequest
from tests.support.program_models import CPU, LATENT, SIDE, drawn, export_pt2, imported, latent_weights, onnx_model
from tests.support.tiny_sampling import save_tiny_teacher

FLOAT = TensorProto.FLOAT


class Unconditional(nn.Module):
    """tanh(z W) as images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT, SIDE * SIDE, bias=False)
        self.linear.weight.data = torch.from_numpy(latent_weights().T.copy())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(z)).reshape(-1, 1, SIDE, SIDE)


class Scaled(Unconditional):
    """With a truncation as a further input."""

    def forward(self, z: torch.Tensor, psi: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(z * psi)


def unconditional(
    path: Path, more: tuple[Any, ...] = (), nodes: tuple[Any, ...] = (), name: str = "z", **changes: Any
) -> Path:
    weights = {"W": latent_weights(), "shape": np.array([-1, 1, SIDE, SIDE])}
    own = [
        helper.make_node("MatMul", [name, "W"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["images"]),
    ]
    inputs = [(name, TensorProto.FLOAT, ["N", LATENT]), *more]
    return onnx_model(path, [*own, *nodes], inputs, weights=weights | changes.pop("weights", {}), **changes)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("names", [None, ("faces",)])
def test_a_program_of_latents_alone_has_one_class(kind: str, names: Any, tmp_path: Path) -> None:
    path = tmp_path / f"g.{kind}"
    if kind == "onnx":
        unconditional(path)
    else:
        export_pt2(Unconditional(), (torch.zeros(2, LATENT),), path)
    teacher = imported(tmp_path / "t", path, class_names=names)
    assert teacher.label_space == ClassLabels(names or ("all",))
    images, latents = drawn(teacher, np.zeros(3, dtype=np.int64))
    assert latents is not None
    expected = np.tanh(latents.numpy() @ latent_weights()).reshape(-1, 1, SIDE, SIDE)
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)
    with pytest.raises(UserError, match="2 names and the teacher has 1 classes"):
        imported(tmp_path / "u", path, class_names=("a", "b"))


def test_a_program_whose_only_input_may_be_the_label_is_asked_about(tmp_path: Path) -> None:
    path = unconditional(tmp_path / "g.onnx", name="x")
    request = ImportRequest(str(path), class_names=tuple("abcde"))
    with pytest.raises(UserError, match=r"latents or the label cannot be told; name it z, or give --label-input"):
        import_onnx(request)
    assert import_onnx(ImportRequest(str(path))).label_space.width == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((("psi", TensorProto.FLOAT, []),), r"psi \(float32 \) is one value for all images"),
        ((("truncation_psi", TensorProto.FLOAT, [1]),), r"no common batch; truncation_psi .*fix it before the export"),
        ((("psi", TensorProto.FLOAT, ["N", 1]),), r"also takes psi .*fix such values before the export"),
        ((("y", TensorProto.INT64, ["N"]), ("strength", TensorProto.FLOAT, ["N", 1])), r"also takes strength"),
        ((("photo", TensorProto.FLOAT, ["N", 3, 8, 8]),), r"takes images \(photo"),
    ],
)  # fmt: skip
def test_values_that_belong_to_no_image_are_named(more: tuple[Any, ...], sentence: str, tmp_path: Path) -> None:
    path = unconditional(tmp_path / "g.onnx", more)
    with pytest.raises(UserError, match=sentence):
        import_onnx(ImportRequest(str(path)))


def test_the_same_for_exported_programs(tmp_path: Path) -> None:
    path = export_pt2(Scaled(), (torch.zeros(2, LATENT), torch.ones(())), tmp_path / "g.pt2", None)
    with pytest.raises(UserError, match="is one value for all images"):
        import_exported(ImportRequest(str(path)))


def _loop(times: np.ndarray | None) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A Loop that runs an Identity so many times; None: as often as an input says."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["carried"], ["left"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("carried", TensorProto.FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("left", TensorProto.FLOAT, None)],
    )
    weights: dict[str, np.ndarray] = {"true": np.array(True)}
    if times is not None:
        weights["times"] = times
    return [helper.make_node("Loop", ["times", "true", "images"], ["looped"], body=body)], weights


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (np.array(2**62), "loop that may run"),
        (np.array([10**7]), "loop that may run"),
        (None, "does not say how often"),
    ],
)
def test_loops_without_an_end_are_refused_unrun(times: np.ndarray | None, sentence: str, tmp_path: Path) -> None:
    nodes, weights = _loop(times)
    more = () if times is not None else (("times", TensorProto.INT64, []),)
    path = unconditional(tmp_path / "g.onnx", more, tuple(nodes), weights=weights)
    with pytest.raises(UserError, match=sentence):
        OnnxProgram(path, CPU)


def test_a_short_loop_is_taken(tmp_path: Path) -> None:
    nodes, weights = _loop(np.array(3))
    OnnxProgram(unconditional(tmp_path / "g.onnx", (), tuple(nodes), weights=weights), CPU)


@pytest.mark.parametrize(("levels", "sentence"), [(30, "nodes with its"), (20, "nodes with its"), (200, "deep")])
def test_functions_that_double_are_counted_without_being_written_out(
    levels: int, sentence: str, tmp_path: Path
) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    first = helper.make_node("Identity", ["x"], ["y"])
    functions = [helper.make_function("mine", "F0", ["x"], ["y"], [first], opsets)]
    for level in range(1, levels):
        calls = [helper.make_node(f"F{level - 1}", [a], [b], domain="mine") for a, b in (("x", "m"), ("m", "y"))]
        functions.append(helper.make_function("mine", f"F{level}", ["x"], ["y"], calls, opsets))
    call = helper.make_node(f"F{levels - 1}", ["images"], ["more"], domain="mine")
    path = unconditional(tmp_path / "g.onnx", (), (call,), functions=functions, opsets=[helper.make_opsetid("mine", 1)])
    with pytest.raises(UserError, match=sentence):
        OnnxProgram(path, CPU)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    own = helper.make_function("mine", "F", ["x"], ["y"], [helper.make_node("F", ["x"], ["y"], domain="mine")], opsets)
    call = helper.make_node("F", ["images"], ["more"], domain="mine")
    path = unconditional(tmp_path / "g.onnx", (), (call,), functions=[own], opsets=[helper.make_opsetid("mine", 1)])
    with pytest.raises(UserError, match="calls itself"):
        OnnxProgram(path, CPU)


def test_a_first_run_that_takes_too_much_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import runtime.trial

    assert run_limited(lambda: [torch.ones(2)], "g")[0].tolist() == [1.0, 1.0]

    def refuses() -> list[torch.Tensor]:
        raise UserError("g is no generator.")

    with pytest.raises(UserError, match="g is no generator"):
        run_limited(refuses, "g")
    with pytest.raises(UserError, match="takes more memory than is free"):
        run_limited(lambda: [torch.ones(2**44)], "g")
    monkeypatch.setattr(runtime.trial, "CPU_SECONDS", 1)
    with pytest.raises(UserError, match="does not finish its first images within 1 seconds"):
        run_limited(lambda: [torch.ones(1) for _ in iter(int, 1)], "g")


def test_a_teacher_loaded_in_inference_mode_can_be_trained_against(tmp_path: Path) -> None:
    folder = save_tiny_teacher(tmp_path, ClassLabels(("a", "b")))
    with torch.inference_mode():
        teacher: Any = load_teacher(folder, CPU)
    network = teacher.network
    assert not any(value.is_inference() for value in network.state_dict().values())
    latents = torch.randn(2, int(teacher.card.latent["dimension"]), requires_grad=True)
    network(latents, torch.zeros(2, dtype=torch.int64)).sum().backward()
    assert latents.grad is not None

"""Hostile, damaged and unfit ONNX files: each is refused in one sentence, and nothing in it is ever run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files.onnx_file import OnnxProgram
from teacher_sampler import load_teacher
from teacher_sampler.black_box.program_importing import import_onnx
from teacher_sampler.importers.registry import ImportRequest
from tests.support.program_models import CPU, imported, linear_onnx
from tests.support.sealed_cards import reseal
from training.model_folder import CARD_FILE

ABC = ("a", "b", "c")
INDEX = ("y", TensorProto.INT64, ["N"])


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = linear_onnx(tmp_path / "g.onnx", INDEX)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"need the library {library}; pip install onnx onnxruntime"):
        import_onnx(ImportRequest(checkpoint=str(path), class_names=ABC))


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"latents": "z", "labels": "other", "label_form": "index"}},
        {"arguments": {"latents": None, "labels": "y", "label_form": "index"}},
        {"arguments": {"latents": "z", "labels": "y", "label_form": "spoken"}},
        {"arguments": {"latents": "z", "labels": "y", "label_form": "index", "black": 1.0, "white": 1.0}},
        {"arguments": {"folder": "/"}},
        {"latent": {}},
        {"latent": {"distribution": "normal", "dimension": 4}},
    ],
)
def test_a_card_that_does_not_fit_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    imported(tmp_path, linear_onnx(tmp_path / "g.onnx", INDEX), class_names=ABC)
    reseal(tmp_path / CARD_FILE, change)
    with pytest.raises(UserError, match=r"card\.json does not describe"):
        load_teacher(tmp_path, CPU)


def _external(tensor: Any, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _weight(model: ModelProto) -> None:
    _external(next(tensor for tensor in model.graph.initializer if tensor.name == "W"), "../../etc/hostname")


def _entry_only(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def _constant(model: ModelProto) -> None:
    node = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros(3, np.float32), "k"))
    _external(node.attribute[0].t, "/etc/hostname")
    model.graph.node.append(node)


def _subgraph(model: ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(3, np.float32), "deep")
    _external(value, "weights.bin")
    output = helper.make_tensor_value_info("deep", TensorProto.FLOAT, [3])
    inner = helper.make_graph([], "inner", [], [output], [value])
    middle = helper.make_graph(
        [helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)], "m", [], [output]
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["e"], then_branch=middle, else_branch=middle))


def _function(model: ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(3, np.float32), "f")
    _external(value, "weights.bin")
    node = helper.make_node("Constant", [], ["o"], value=value)
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("mine", "F", [], ["o"], [node], opset))


def _sparse(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    _external(sparse.values, "weights.bin")


def _custom(model: ModelProto) -> None:
    model.graph.node[0].domain = "evil.ops"


def _context(model: ModelProto) -> None:
    """An operator of onnxruntime itself that opens the file it names."""
    model.graph.node.append(
        helper.make_node("EPContext", [], ["x"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    )


def _custom_in_function(model: ModelProto) -> None:
    node = helper.make_node("Load", [], ["o"], domain="evil.ops")
    model.functions.append(helper.make_function("mine", "F", [], ["o"], [node], [helper.make_opsetid("", 18)]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_weight, "lies in another file"),
        (_entry_only, "lies in another file"),
        (_constant, "lies in another file"),
        (_subgraph, "lies in another file"),
        (_function, "lies in another file"),
        (_sparse, "lies in another file"),
        (_custom, "custom domain 'evil.ops'"),
        (_context, "custom domain 'com.microsoft'"),
        (_custom_in_function, "custom domain 'evil.ops'"),
    ],
)
def test_hostile_onnx_models_never_reach_the_runtime(
    change: Callable[[ModelProto], None], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = linear_onnx(tmp_path / "g.onnx", INDEX)
    model = ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # whoever asks for it gets another error
    with pytest.raises(UserError, match=named) as caught:
        import_onnx(ImportRequest(checkpoint=str(path), class_names=ABC))
    assert "g.onnx" in str(caught.value)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    monkeypatch.undo()
    imported(tmp_path / "good", linear_onnx(tmp_path / "good.onnx", INDEX), class_names=ABC)
    (teacher / "model.onnx").write_bytes(path.read_bytes())
    reseal(teacher / CARD_FILE, {"source_digest": file_sha256(path)}, tmp_path / "good" / CARD_FILE)
    with pytest.raises(UserError, match=named):
        load_teacher(teacher, CPU)


def test_functions_of_the_model_itself_are_no_custom_operators(tmp_path: Path) -> None:
    path = linear_onnx(tmp_path / "g.onnx", INDEX)
    model = ModelProto.FromString(path.read_bytes())
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    tanh.domain, tanh.op_type = "mine", "Squash"
    body = [helper.make_node("Tanh", ["x"], ["t"])]
    model.functions.append(helper.make_function("mine", "Squash", ["x"], ["t"], body, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path.write_bytes(model.SerializeToString())
    assert imported(tmp_path / "t", path, class_names=ABC)


def test_what_the_library_does_not_know_is_dropped(tmp_path: Path) -> None:
    """Fields of other versions and settings of the runtime do not reach it."""
    path = linear_onnx(tmp_path / "g.onnx", INDEX)
    model = ModelProto.FromString(path.read_bytes())
    model.metadata_props.add(key="ort_config", value="{}")
    raw = model.SerializeToString() + bytes([0xFA, 0x3F, 3]) + b"abc"  # field 1023
    path.write_bytes(raw)
    program = OnnxProgram(path, CPU)
    assert b"ort_config" in raw
    assert b"ort_config" not in program._bytes
    assert not program._bytes.endswith(b"abc")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07", "half", "text input"])
def test_damaged_onnx_files(content: Any, tmp_path: Path) -> None:
    path = linear_onnx(tmp_path / "g.onnx", INDEX)
    if content == "half":
        content = path.read_bytes()[: path.stat().st_size // 2]
    if content == "text input":
        model = ModelProto.FromString(path.read_bytes())
        model.graph.input[1].type.tensor_type.elem_type = TensorProto.STRING
        content = model.SerializeToString()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"g\.onnx"):
        import_onnx(ImportRequest(checkpoint=str(path), class_names=ABC))
    with pytest.raises(UserError, match="is a folder"):
        import_onnx(ImportRequest(checkpoint=str(tmp_path)))

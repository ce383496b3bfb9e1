"""Hostile, damaged and unfit torch.export programs: each is refused in one sentence, and nothing in it is ever run."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.safe_files.exported_program import ExportedProgram
from teacher_sampler.black_box.program_importing import import_exported
from teacher_sampler.importers.registry import ImportRequest
from tests.support.program_models import CPU, LATENT, export_pt2, imported

CANARY = Path(tempfile.gettempdir()) / f"retort-canary-{os.getpid()}"  # each test process has its own


@pytest.fixture(autouse=True)
def nothing_ran() -> Any:
    """No test may leave the canary, which every payload tries to write."""
    CANARY.unlink(missing_ok=True)
    yield
    assert not CANARY.exists()


class Payload:
    """Writes the canary when it is unpickled."""

    def __reduce__(self) -> Any:
        return (eval, (f"open({str(CANARY)!r}, 'w').close()",))


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(LATENT, 16)
        self.embedding = torch.nn.Embedding(3, 16)
        self.scale = torch.ones(16)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(z) * self.scale + self.embedding(y)).view(z.shape[0], 1, 4, 4)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The entries of a good archive."""
    path = tmp_path_factory.mktemp("good") / "good.pt2"
    export_pt2(Tiny(), (torch.randn(2, LATENT), torch.tensor([0, 1])), path)
    assert ExportedProgram(path, CPU).classes("y") == 3
    with zipfile.ZipFile(path) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}


def packed(path: Path, entries: dict[str, bytes], more: tuple[tuple[str, bytes], ...] = (), method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in [*((f"p/{name}", data) for name, data in entries.items()), *more]:
            opened.writestr(name, data)
    return path


def refused(path: Path, named: str) -> bool:
    """Whether the import ends in a sentence that names the file and says `named`."""
    with pytest.raises(UserError, match=named) as caught:
        import_exported(ImportRequest(checkpoint=str(path)))
    return path.name in str(caught.value)


def changed(entries: dict[str, bytes], name: str, change: Callable[[Any], None]) -> dict[str, bytes]:
    """The entries with one JSON file changed."""
    found = json.loads(entries[name])
    change(found)
    return {**entries, name: json.dumps(found).encode()}


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    return buffer.getvalue()


def test_the_payload_is_dangerous_indeed() -> None:
    """The canary is written when someone unpickles it, so its absence elsewhere says something."""
    pickle.loads(pickle.dumps(Payload()))
    assert CANARY.exists()
    CANARY.unlink()


def test_sample_inputs_are_pickles_that_nobody_opens(archive: dict[str, bytes], tmp_path: Path) -> None:
    entries = {**archive, "data/sample_inputs/model.pt": pickled()}
    teacher = imported(tmp_path / "t", packed(tmp_path / "p.pt2", entries))
    images = teacher.generate(torch.zeros(2, LATENT), np.array([0, 1]), np.zeros((2, 2), dtype=np.int64), 0)
    assert images.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_tensors_are_refused(kind: str, archive: dict[str, bytes], tmp_path: Path) -> None:
    config = {"weights": WEIGHTS, "constants": CONSTANTS}[kind]

    def use_pickle(found: Any) -> None:
        for entry in found["config"].values():
            entry["use_pickle"] = True

    entries = changed(archive, config, use_pickle)
    entries = {name: pickled() if name.startswith((f"data/{kind}/w", f"data/{kind}/t")) else data
               for name, data in entries.items()}  # fmt: skip
    assert refused(packed(tmp_path / "p.pt2", entries), "stored as a pickle")


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/weights/model.pt",
        "data/aotinductor/model/x.so", "data/aotinductor/model/x.cpp", "data/weights/x.so", "x.so",
        "../../escape", "data/../../escape", "models/../escape.json", "/etc/cron.d/escape", "xl_model_weights/w",
        "executorch/model.pte",
        "serialized_exported_program.json", "serialized_state_dict.pt", "data/weights/weight_0/..", "models/a/b.json",
    ],
)  # fmt: skip
def test_unknown_entries_are_refused(name: str, archive: dict[str, bytes], tmp_path: Path) -> None:
    assert refused(packed(tmp_path / "p.pt2", archive, ((f"p/{name}", pickled()),)), "is refused: it holds")
    assert [path.name for path in tmp_path.iterdir()] == ["p.pt2"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_names_second_models_and_second_roots(archive: dict[str, bytes], tmp_path: Path) -> None:
    twice = ((f"p/{WEIGHTS}", archive[WEIGHTS]),)
    assert refused(packed(tmp_path / "a.pt2", archive, twice), "twice")
    assert refused(
        packed(tmp_path / "b.pt2", archive, (("p/models/other.json", archive[MODEL]),)), "one exported program"
    )
    assert refused(packed(tmp_path / "c.pt2", archive, (("q/extra/note", b"x"),)), "no torch.export program")
    assert imported(tmp_path / "t", packed(tmp_path / "d.pt2", archive, (("p/extra/note", b"x"),)))


def test_bombs_and_cut_files(archive: dict[str, bytes], tmp_path: Path) -> None:
    assert refused(
        packed(tmp_path / "a.pt2", archive, (("p/extra/z", bytes(50_000_000)),), zipfile.ZIP_DEFLATED), "compressed"
    )
    whole = packed(tmp_path / "b.pt2", archive).read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "b.pt2").write_bytes(whole[:cut])
        assert refused(tmp_path / "b.pt2", "damaged or is no torch.export program|no part of a plain exported program")
    at = whole.index(archive["data/weights/weight_0"])
    (tmp_path / "c.pt2").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert refused(tmp_path / "c.pt2", "damaged")
    (tmp_path / "d.pt2").mkdir()
    assert refused(tmp_path / "d.pt2", "is a folder")


EVIL = f"__import__('os').system('touch {CANARY}')"


def _evil_symbols(found: Any) -> None:
    """In every place where torch would hand a text to sympy, or to Python."""
    text = json.dumps(found["graph_module"]).replace("Symbol('", f"{EVIL} + Symbol('")
    found["graph_module"] = json.loads(text)
    found["guards_code"] = [EVIL]
    found["range_constraints"] = {EVIL: {"min_val": 1, "max_val": None}}


def _evil_inner_symbols(found: Any) -> None:
    """The batch stays plain; sizes inside, which are never read, do not."""
    for name, meta in found["graph_module"]["graph"]["tensor_values"].items():
        for size in meta["sizes"]:
            if "as_expr" in size and name not in ("z", "y"):
                size["as_expr"]["expr_str"] = EVIL
    found["guards_code"] = [EVIL]


def test_expressions_are_never_evaluated(archive: dict[str, bytes], tmp_path: Path) -> None:
    assert refused(packed(tmp_path / "a.pt2", changed(archive, MODEL, _evil_symbols)), "no plain symbol")
    teacher = imported(tmp_path / "t", packed(tmp_path / "b.pt2", changed(archive, MODEL, _evil_inner_symbols)))
    teacher.generate(torch.zeros(2, LATENT), np.array([0, 1]), np.zeros((2, 2), dtype=np.int64), 0)


def _node(**changes: Any) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        nodes = found["graph_module"]["graph"]["nodes"]
        place = next(index for index, node in enumerate(nodes) if node["target"].endswith("tanh.default"))
        nodes[place] = {**nodes[place], **copy.deepcopy(changes)}

    return change


def _text(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "arg": {"as_string": value}, "kind": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_node(target="torch.os.system", inputs=[_text("", f"touch {CANARY}".replace("/", "."))]), "no plain operator"),
        (_node(target="torch.ops.aten.__class__.mro", inputs=[]), "no plain operator"),
        (_node(target="torch.load", inputs=[_text("", "x")]), "no plain operator"),
        (_node(target="_operator.attrgetter", inputs=[_text("", "x")]), "no plain operator"),
        (_node(target="builtins.eval", inputs=[_text("", EVIL)]), "gets the text"),
        (_node(target="torch.ops.prim.Print.default"), "no plain operator"),
        (_node(target="torch.ops.higher_order.call_torchbind"), "no plain operator"),
        (_node(target="#evil:op"), "no plain operator"),
        (_node(target="torch.ops.aten.from_file.default", inputs=[_text("filename", "hostname")]), "aten.from_file"),
        (_node(target="torch.ops.aten.set_.source_Tensor"), "aten.set_"),
        (_node(target="torch.ops.aten.resize_.default"), "aten.resize_"),
        (_node(target="torch.ops.aten.no_such_operator.default"), "has no operator"),
        (_node(target="torch.ops.aten.einsum.default", inputs=[_text("equation", "../x/y")]), "gets the text"),
        (_node(target="torch.ops.aten.tanh.default", inputs=[{"name": "self", "arg": {"as_custom_obj": {}}}]), "kind"),
        (_node(target="torch.ops.aten.tanh.default", inputs=[{"name": "self", "arg": {"as_int": 1}}]),
         "fails in torch"),
        (_node(target="_operator.mul", inputs=[{"name": "", "arg": {"as_ints": [1]}},
                                                {"name": "", "arg": {"as_int": 2**40}}]), "a size is no number"),
    ],
)  # fmt: skip
def test_foreign_calls_are_refused(
    change: Callable[[Any], None], named: str, archive: dict[str, bytes], tmp_path: Path
) -> None:
    assert refused(packed(tmp_path / "p.pt2", changed(archive, MODEL, change)), named)


def _meta(**changes: Any) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        found["config"]["linear.weight"]["tensor_meta"].update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _meta(sizes=[{"as_int": 1000}, {"as_int": 5}]),
        _meta(strides=[{"as_int": 10**9}, {"as_int": 1}]),
        _meta(storage_offset={"as_int": 79}),
        _meta(storage_offset={"as_int": -1}),
        _meta(sizes=[{"as_int": -16}, {"as_int": 5}]),
        _meta(sizes=[{"as_expr": {"expr_str": EVIL}}, {"as_int": 5}]),
        _meta(dtype=99),
        _meta(layout=1),
        lambda found: found["config"]["linear.weight"].update(path_name="../../../etc/hostname"),
        lambda found: found["config"].pop("linear.weight"),
        lambda found: found.pop("config"),
    ],
)
def test_tensors_that_reach_beyond_their_bytes(
    change: Callable[[Any], None], archive: dict[str, bytes], tmp_path: Path
) -> None:
    assert refused(packed(tmp_path / "p.pt2", changed(archive, WEIGHTS, change)), "damaged|refused|cannot be run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: found["schema_version"].update(major=9), "version 9 of the format"),
        (lambda found: found["graph_module"]["signature"]["output_specs"].append({"token": {}}), "not one output"),
        (lambda found: found["graph_module"]["signature"]["input_specs"].append({"custom_obj": {}}), "custom_obj"),
        (lambda found: found["graph_module"]["graph"]["nodes"].pop(0), "cannot be run"),
        (lambda found: found["graph_module"]["graph"].pop("nodes"), "cannot be run"),
        (lambda found: found.update(graph_module=[]), "cannot be run"),
    ],
)
def test_malformed_programs(
    change: Callable[[Any], None], named: str, archive: dict[str, bytes], tmp_path: Path
) -> None:
    assert refused(packed(tmp_path / "p.pt2", changed(archive, MODEL, change)), named)

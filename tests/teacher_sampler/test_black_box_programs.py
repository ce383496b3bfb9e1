"""ONNX and torch.export programs as teachers: their images are those of the network, however labels are fed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from exporters.torch_export import export_student
from image_data.fake import verify_fakes
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace, TeacherCard
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.safe_files.exported_program import PROGRAM_FILE, ExportedProgram
from runtime.safe_files.onnx_file import MODEL_FILE
from runtime.seeds import label_bits, sample_normals
from student_trainer import GENERATORS
from teacher_sampler import load_teacher
from teacher_sampler.black_box.program_importing import import_exported, import_onnx
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.sampler import sample
from tests.support.program_models import (
    CPU,
    LATENT,
    Conv,
    drawn,
    example_inputs,
    export_onnx,
    export_pt2,
    imported,
    label_steps,
    linear_images,
    linear_onnx,
    onnx_model,
    tiny_network,
)
from tests.support.tiny_sampling import ANGLES, CLASSES, TinyAcceptance, class_error, tiny_settings
from training.generator_folder import NetworkGenerator

pytestmark = pytest.mark.xdist_group("programs")
INDEX = ("y", TensorProto.INT64, ["N"])
ABC = ("a", "b", "c")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkGenerator]:
    folder = tmp_path_factory.mktemp("networks")
    return {kind: tiny_network(folder / kind, space) for kind, space in (("classes", CLASSES), ("values", ANGLES))}


@pytest.fixture(scope="module")
def programs(networks: dict[str, NetworkGenerator], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our BigGAN for classes and for values, by torch's two exporters."""
    folder = tmp_path_factory.mktemp("programs")
    made = {}
    for kind, teacher in networks.items():
        made[f"{kind}.onnx"] = export_onnx(teacher.network, example_inputs(teacher, 2), folder / f"{kind}.onnx")
        made[f"{kind}.pt2"] = export_pt2(teacher.network, example_inputs(teacher, 2), folder / f"{kind}.pt2")
    return made


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_images_are_those_of_the_network(
    kind: str, suffix: str, networks: dict[str, NetworkGenerator], programs: dict[str, Path], tmp_path: Path
) -> None:
    wishes = (
        {"class_names": CLASSES.names} if kind == "classes" else {"label_range": (-90.0, 90.0), "label_unit": "degrees"}
    )
    teacher = imported(tmp_path, programs[f"{kind}.{suffix}"], **wishes)
    network = networks[kind]
    assert teacher.label_space == network.label_space
    card = teacher.card
    assert (card.resolution_px, card.channels, card.latent) == (16, 1, {"distribution": "normal", "dimension": 9})
    assert teacher.candidates(np.zeros(2)) is None
    for count in (1, 7):
        labels = np.arange(count) % 3 if kind == "classes" else np.linspace(-90, 90, count)
        images, latents = drawn(teacher, labels)
        expected, same = drawn(network, labels)
        assert latents is not None
        assert torch.equal(latents, same)
        assert images.dtype == torch.float32
        assert float((images - expected).abs().max()) < 1e-4
    assert float(images.std()) > 0.01


@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch, of weights in channels_last
@pytest.mark.parametrize("space", [CLASSES, ANGLES])
def test_our_own_exported_student_is_a_teacher(space: LabelSpace, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = GENERATORS.get("tinygan")(16, 1, LATENT, space.kind, space.width, base_width=4)
    latent = {"distribution": "normal", "dimension": LATENT}
    card = TeacherCard("tinygan", {}, 16, 1, space.to_json(), latent, {}, "", "none", [])
    student = NetworkGenerator(card, network, space, CPU)
    path = export_student(student, tmp_path / "student.pt2").path
    wishes = {} if space.kind == "classes" else {"label_range": (-90.0, 90.0)}
    teacher = imported(tmp_path / "t", path, **wishes)
    labels = np.arange(5) % 3 if space.kind == "classes" else np.linspace(-80, 80, 5)
    images, _ = drawn(teacher, labels)
    expected, _ = drawn(student, labels)
    assert float((images - expected).abs().max()) < 1e-4


def test_the_number_of_classes_is_in_the_graph(programs: dict[str, Path], tmp_path: Path) -> None:
    for suffix in ("onnx", "pt2"):
        teacher = imported(tmp_path / suffix, programs[f"classes.{suffix}"], truncation=0.5)
        assert teacher.label_space == ClassLabels(("0", "1", "2"))
        assert teacher.card.truncation == {"std": 0.5}
        keys = np.array([[1, 3]])
        latents = teacher.latents(keys, 7)
        assert latents is not None
        assert np.array_equal(latents.numpy(), sample_normals(keys, 7, "latent", 9) * np.float32(0.5))
        with pytest.raises(UserError, match="gives 2 names"):
            imported(tmp_path / "x", programs[f"classes.{suffix}"], class_names=("a", "b"))


@pytest.mark.parametrize("variant", ["any", "fixed", "bounded", "decomposed"])
def test_foreign_exports(variant: str, tmp_path: Path) -> None:
    """Many kinds of operators, parametrised weights; a batch that is free, fixed or bounded; core operators only."""
    network = Conv().eval()
    inputs = (torch.randn(3, LATENT), torch.tensor([0, 1, 2]))
    batch = {"any": "any", "fixed": None, "bounded": torch.export.Dim("n", min=2, max=4), "decomposed": "any"}[variant]
    path = export_pt2(network, inputs, tmp_path / "conv.pt2", batch)
    if variant == "decomposed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.load(path).run_decompositions(), path)
    program = ExportedProgram(path, CPU)
    assert program.batch == {"fixed": (3, 3), "bounded": (2, 4)}.get(variant, (1, None))
    teacher = imported(tmp_path / "teacher", path, class_names=ABC)
    for count in (1, 2, 7):
        images, latents = drawn(teacher, np.arange(count) % 3)
        with torch.inference_mode():
            expected = network(latents, torch.arange(count) % 3)
        assert images.shape == (count, 3, 8, 8)
        assert float((images - expected).abs().max()) < 1e-5


CASES: dict[str, tuple[tuple[str, int, list[Any]], dict[str, Any], Any]] = {
    "index": (INDEX, {"class_names": ABC}, lambda y: (y + 0.0) * 0.1),
    "index as a column": (("y", TensorProto.INT32, ["N", 1]), {"class_names": ABC}, lambda y: y * 0.1),
    "index as float": (("y", TensorProto.FLOAT, ["N"]), {"class_names": ABC, "label_input": "index"},
                       lambda y: y * 0.1),
    "one-hot": (("y", TensorProto.FLOAT, ["N", 3]), {}, lambda y: label_steps(3)[0, y]),
    "one-hot by name": (("label", TensorProto.FLOAT, ["N", LATENT]), {}, lambda y: label_steps(LATENT)[0, y]),
    "one-hot of integers": (("q", TensorProto.INT64, ["N", 3]), {"class_names": ABC}, lambda y: label_steps(3)[0, y]),
    "value": (("y", TensorProto.FLOAT, ["N", 1]), {"label_range": (10.0, 12.0)}, lambda y: (y - 10) / 2 * 0.1),
    "value of one dimension": (("v", TensorProto.DOUBLE, ["N"]), {"label_range": (0.0, 1.0)}, lambda y: y * 0.1),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("case", CASES)
def test_label_forms(case: str, batch: Any, tmp_path: Path) -> None:
    """Every pixel is worked out by hand; 7 images through a program that takes 4 at a time."""
    (name, kind, sizes), wishes, added = CASES[case]
    path = linear_onnx(tmp_path / "g.onnx", (name, kind, [batch, *sizes[1:]]), batch=batch)
    teacher = imported(tmp_path / "t", path, **wishes)
    space = teacher.label_space
    labels: np.ndarray = np.arange(7) % min(space.width, 3)
    if isinstance(space, ContinuousLabels):
        labels = np.linspace(space.low, space.high, 7)
    images, latents = drawn(teacher, labels)
    assert latents is not None
    assert images.shape == (7, 1, 4, 4)
    assert np.allclose(images.numpy(), linear_images(latents.numpy(), added(labels)), atol=1e-5)


@pytest.mark.parametrize(
    ("last", "output", "wishes"),
    [
        ([("Mul", "255")], TensorProto.FLOAT, {"output_range": (-255.0, 255.0)}),
        ([("Mul", "half"), ("Add", "half")], TensorProto.FLOAT, {"output_range": (0.0, 1.0)}),
        ([("Mul", "half"), ("Add", "half"), ("Mul", "255"), ("Cast", "uint8")], TensorProto.UINT8, {}),
    ],
)
def test_output_ranges(last: list[tuple[str, str]], output: int, wishes: dict[str, Any], tmp_path: Path) -> None:
    weights = {"255": np.float32(255), "half": np.float32(0.5)}
    nodes, before = [], "raw"
    for number, (kind, value) in enumerate(last):
        after = "images" if number == len(last) - 1 else f"h{number}"
        given = {"to": TensorProto.UINT8} if kind == "Cast" else {}
        nodes.append(helper.make_node(kind, [before] if given else [before, value], [after], **given))
        before = after
    more = {name: np.array([value]) for name, value in weights.items()}
    path = linear_onnx(tmp_path / "g.onnx", INDEX, last=nodes, weights=more, output=(output, ["N", 1, 4, 4]))
    teacher = imported(tmp_path / "t", path, class_names=ABC, **wishes)
    images, latents = drawn(teacher, np.zeros(5, dtype=np.int64))
    assert latents is not None
    expected = linear_images(latents.numpy(), np.zeros(5))
    if output == TensorProto.UINT8:
        levels = np.floor((expected * 0.5 + 0.5) * 255)
        assert np.abs(quantise(images).numpy() - levels).max() <= 1
        assert np.allclose(images.numpy(), quantise(images).numpy() / 127.5 - 1, atol=1e-6)
    else:
        assert np.allclose(images.numpy(), expected, atol=1e-5)


def test_latents_of_four_dimensions_and_programs_without_latents(tmp_path: Path) -> None:
    path = linear_onnx(tmp_path / "g.onnx", INDEX, latents=["N", LATENT, 1, 1])
    images, latents = drawn(imported(tmp_path / "t", path, class_names=ABC), np.zeros(3, dtype=np.int64))
    assert latents is not None
    assert np.allclose(images.numpy(), linear_images(latents.numpy(), np.zeros(3)), atol=1e-5)
    table = np.random.default_rng(0).uniform(-1, 1, (3, 3, 4, 4)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "y"], ["images"])]
    output = (TensorProto.FLOAT, ["N", 3, 4, 4])
    path = onnx_model(tmp_path / "only.onnx", nodes, [INDEX], output, {"table": table})
    teacher = imported(tmp_path / "only", path, class_names=ABC)
    images, latents = drawn(teacher, np.array([2, 0]))
    assert latents is None
    assert np.allclose(images.numpy(), table[[2, 0]])
    assert teacher.candidates(np.array([0, 1, 2])).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="--truncation"):
        imported(tmp_path / "no", path, class_names=ABC, truncation=0.5)


@pytest.mark.parametrize(
    ("label", "wishes", "named"),
    [
        (INDEX, {}, ["--class-names"]),
        (("y", TensorProto.FLOAT, ["N", 1]), {}, ["--label-range"]),
        (("y", TensorProto.FLOAT, ["N", 1]), {"class_names": ABC}, ["--label-input"]),
        (("y", TensorProto.FLOAT, ["N", "K"]), {}, ["--label-input", "--class-names"]),
        (("y", TensorProto.FLOAT, ["N", 3]), {"label_input": "index"}, ["--label-input index", "one-hot"]),
        (INDEX, {"label_input": "value"}, ["--label-input value", "index"]),
        (INDEX, {"class_names": ABC, "label_range": (0.0, 1.0)}, ["--label-range"]),
        (("q", TensorProto.FLOAT, ["N", 3]), {"class_names": ("a", "b")}, ["cannot be told", "z and y"]),
        (("y", TensorProto.FLOAT, ["N", 3]), {"class_names": ("a", "b")}, ["2 names", "3 classes"]),
        (("y", TensorProto.FLOAT, ["N", 1]), {"label_range": (0.0, 1.0), "truncation": -1.0}, ["--truncation"]),
        (INDEX, {"class_names": ABC, "resolution_px": 8}, ["--resolution"]),
    ],
)
def test_all_that_is_missing_is_asked_for_at_once(
    label: tuple[str, int, list[Any]], wishes: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    path = linear_onnx(tmp_path / "g.onnx", label)
    if label[0] == "q":  # neither name tells anything
        raw = path.read_bytes().replace(b"\x01z", b"\x01x").replace(b"\n\x01z", b"\n\x01x")
        path.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        import_onnx(ImportRequest(checkpoint=str(path), **wishes))
    for text in named:
        assert text in str(caught.value)


def _batch_mean() -> list[Any]:
    """Each batch's own statistics."""
    mean = helper.make_node("ReduceMean", ["raw", "first"], ["m"], keepdims=1)
    return [mean, helper.make_node("Sub", ["raw", "m"], ["images"])]


@pytest.mark.parametrize(
    ("last", "output", "named"),
    [
        ([helper.make_node("RandomNormalLike", ["raw"], ["n"]), helper.make_node("Add", ["raw", "n"], ["images"])],
         ["N", 1, 4, 4], "random numbers inside"),
        ([helper.make_node("Dropout", ["raw", "", "yes"], ["images"])], ["N", 1, 4, 4], "another image each time"),
        (_batch_mean(), ["N", 1, 4, 4], "depend on which others"),
        ([helper.make_node("Transpose", ["raw"], ["images"], perm=[0, 2, 3, 1])], ["N", 4, 4, 1], "N x C x H x W"),
        ([helper.make_node("Reshape", ["raw", "wide2"], ["images"])], ["N", 1, 2, 8], "square"),
        ([helper.make_node("Mul", ["raw", "many"], ["images"])], ["N", 1, 4, 4], "--output-range"),
        ([helper.make_node("Div", ["raw", "zero"], ["images"])], ["N", 1, 4, 4], "not numbers"),
        ([helper.make_node("Reshape", ["raw", "odd"], ["images"])], ["N", 1, 4, 4], "fails in onnxruntime"),
    ],
)  # fmt: skip
def test_programs_that_are_no_teachers(last: list[Any], output: list[Any], named: str, tmp_path: Path) -> None:
    weights = {"zero": np.zeros(1, np.float32), "many": np.full(1, 90, np.float32)}
    weights |= {"wide2": np.array([-1, 1, 2, 8]), "odd": np.array([-1, 1, 5, 5]), "yes": np.array(True)}
    weights |= {"first": np.array([0])}
    path = linear_onnx(tmp_path / "g.onnx", INDEX, last=last, weights=weights, output=(TensorProto.FLOAT, output))
    with pytest.raises(UserError, match=named):
        import_onnx(ImportRequest(checkpoint=str(path), class_names=ABC))


class Plain(torch.nn.Module):
    """A generator with one fault of choice."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.linear = torch.nn.Linear(LATENT, 16)
        self.embedding = torch.nn.Embedding(3, 16)
        self.norm = torch.nn.BatchNorm1d(16, track_running_stats=fault != "own statistics")
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.linear(z) + self.embedding(y))
        if self.fault == "noise":
            h = h + torch.randn_like(h)
        if self.fault == "dropout":
            h = torch.nn.functional.dropout(h, 0.5, True)
        if self.fault == "":
            h = h + torch.empty(16) + h.new_empty(16)
        if self.fault == "counter":
            self.seen.add_(1.0)
            h = h + 0 * self.seen
        return torch.tanh(h).view(-1, 1, 4, 4)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("noise", r"draws random numbers inside \(aten.randn_like\)"),
        ("dropout", r"draws random numbers inside \(aten.dropout\)"),
        ("counter", "eval mode"),
        ("own statistics", "depend on which others"),
    ],
)
def test_exported_programs_that_are_no_teachers(fault: str, named: str, tmp_path: Path) -> None:
    path = export_pt2(Plain(fault), (torch.randn(3, LATENT), torch.tensor([0, 1, 2])), tmp_path / "p.pt2")
    with pytest.raises(UserError, match=named):
        import_exported(ImportRequest(checkpoint=str(path)))


def test_memory_that_a_program_never_wrote_is_zero(tmp_path: Path) -> None:
    network = Plain().eval()
    path = export_pt2(network, (torch.randn(3, LATENT), torch.tensor([0, 1, 2])), tmp_path / "p.pt2")
    images, latents = drawn(imported(tmp_path / "t", path), np.arange(3))
    assert latents is not None
    with torch.inference_mode():
        h = network.norm(network.linear(latents) + network.embedding(torch.arange(3)))
    assert torch.allclose(images, torch.tanh(h).view(-1, 1, 4, 4), atol=1e-6)


def sampling(folder: Path) -> SamplingParts:
    return SamplingParts(load_teacher(folder, CPU), None, None, TinyAcceptance(needs_ratio=False), class_error)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_sampling_stores_the_network_s_images(
    suffix: str, networks: dict[str, NetworkGenerator], programs: dict[str, Path], tmp_path: Path
) -> None:
    """Through the sampler: quantised images within one level of the network's, and equal bytes the second time."""
    imported(tmp_path / "t", programs[f"classes.{suffix}"])
    settings = tiny_settings(filter_digest="", predictor_digest="")
    plan = LabelPlan.classes(CLASSES, 20)
    found = sample(lambda: sampling(tmp_path / "t"), plan, settings, tmp_path / "a", LocalEngine(1))
    again = sample(lambda: sampling(tmp_path / "t"), plan, settings, tmp_path / "b", LocalEngine(1))
    assert found.digest == again.digest
    assert verify_fakes(found.path) == []
    rows = np.arange(len(found))
    latents = found.latents(rows)
    assert latents is not None
    keys = np.stack([label_bits(found.labels), found.sample_index], axis=1)
    expected = networks["classes"].generate(torch.from_numpy(latents), found.labels, keys, 11)
    assert np.abs(quantise(expected).numpy().astype(int) - found.images(rows)).max() <= 1


@pytest.mark.parametrize(("suffix", "file"), [("onnx", MODEL_FILE), ("pt2", PROGRAM_FILE)])
def test_a_changed_or_missing_file_is_found(suffix: str, file: str, programs: dict[str, Path], tmp_path: Path) -> None:
    imported(tmp_path, programs[f"classes.{suffix}"])
    raw = bytearray((tmp_path / file).read_bytes())
    raw[len(raw) // 3] ^= 1
    (tmp_path / file).write_bytes(raw)
    with pytest.raises(UserError, match=file):
        load_teacher(tmp_path, CPU)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        load_teacher(tmp_path, CPU)


def test_label_spaces_are_those_that_were_stated(tmp_path: Path) -> None:
    path = linear_onnx(tmp_path / "g.onnx", ("y", TensorProto.FLOAT, ["N", 2]))
    request = ImportRequest(checkpoint=str(path), label_input="value", label_range=(0.0, 5.0), label_unit="mm")
    space: LabelSpace = import_onnx(request).label_space
    assert space == ContinuousLabels(0.0, 5.0, "mm", 2)

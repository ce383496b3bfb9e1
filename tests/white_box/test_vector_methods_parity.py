"""RKD, PKT, CRD, SimKD and ReviewKD against what the original programs computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from image_data.labels import ClassLabels
from layers.features import Insides
from layers.projected_head import ProjectedHead
from tests.support.map_methods import Given, method_on, run
from tests.support.parity_kd import Fixture, assert_like, parity_kd
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.pkt import divergences
from white_box.losses.reviewkd import Fusion
from white_box.losses.rkd import distance_rows
from white_box.losses.simkd import squared_difference

EXAMPLE = (torch.zeros(2, 1, 4, 4, dtype=torch.uint8),)


def vectors(fixture: Fixture) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(student's, with gradients, teacher's) as pooled vectors."""
    return {"pooled": fixture.inputs["feat_s"].clone().requires_grad_()}, {"pooled": fixture.inputs["feat_t"]}


def gradient(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    assert tensor.grad is not None
    return tensor.grad


def below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def check_norms(module: nn.Module, expected: Mapping[str, torch.Tensor], weight: float = 1.0) -> None:
    """All gradients that the fixture has."""
    assert expected
    parameters = dict(module.named_parameters())
    for name, value in expected.items():
        assert_like(gradient(parameters[name]).norm() / weight, value)


@pytest.mark.parametrize("equal_rows", ["left-out", "counted"])
def test_parity_kd_rkd(equal_rows: Any) -> None:
    fixture = parity_kd("losses", "rkd")
    student, teacher = vectors(fixture)
    terms = run(method_on("rkd", student, teacher, equal_rows=equal_rows), student, teacher)
    assert_like(terms["loss"], fixture.expected["loss"])
    assert_like(terms["distance"] / 25, fixture.expected["distance"])
    assert_like(terms["angle"] / 50, fixture.expected["angle"])
    assert_like(gradient(student["pooled"]), fixture.expected["grad.feat_s"])
    doubled = [one["pooled"].detach().clone() for one in (student, teacher)]
    for one in doubled:
        one[1] = one[0]
    key = "alt.distance_dup" if equal_rows == "left-out" else "distance_dup"
    assert_like(distance_rows(doubled[0], doubled[1], None, equal_rows), fixture.expected[key])


def test_parity_kd_pkt() -> None:
    fixture = parity_kd("losses", "pkt")
    student, teacher = vectors(fixture)
    for reduction, weight, key in (("rows", 468.75, "alt.loss_batchmean"), ("entries", 30000.0, "loss")):
        student["pooled"].grad = None
        terms = run(method_on("pkt", student, teacher, reduction=reduction), student, teacher)
        assert_like(terms["loss"] / weight, fixture.expected[key])
    assert_like(gradient(student["pooled"]) / 30000, fixture.expected["grad.feat_s"])
    zero = fixture.inputs["zero_feat_s"].clone().requires_grad_()
    value = divergences(zero, teacher["pooled"]).mean() / len(zero)
    value.backward()
    assert_like(value, fixture.expected["alt.zero.loss"])
    assert_like(gradient(zero), fixture.expected["alt.zero.grad.zero_feat_s"])


def crd_of(fixture: Fixture) -> Any:
    """The method with the fixture's weights and banks; its Z is that of the first batch."""
    labels = fixture.inputs["labels_of_data"]
    insides = [
        Insides(Given({"pooled": fixture.inputs[f"feat_{side}.0"]}), EXAMPLE, owner)
        for side, owner in (("s", "student"), ("t", "teacher"))
    ]
    classes = ClassLabels(tuple(map(str, range(int(labels.max()) + 1))))
    settings = {"embedding_dim": 64, "negatives": 40, "normaliser": "first"}
    method = METHODS.build(METHODS.choose("crd", settings), MethodSpace("crd", *insides, classes, labels))
    names = {"bank_student": "contrast.memory_v1", "bank_other": "contrast.memory_v2"}
    for ours, theirs in (("embed_student", "embed_s"), ("embed_other", "embed_t")):
        names |= {f"{ours}.{part}": f"{theirs}.linear.{part}" for part in ("weight", "bias")}
    state = {ours: fixture.weights[theirs] for ours, theirs in names.items()}
    method.load_state_dict(state | {"z": torch.full((2,), -1.0)})
    return method


def test_parity_kd_crd() -> None:
    """Four steps on batches that share rows: value, gradients, Z; the banks in the end."""
    fixture = parity_kd("losses", "crd")
    method, inputs, expected = crd_of(fixture), fixture.inputs, fixture.expected
    for step in range(4):
        drawn, index = inputs[f"contrast_idx.{step}"][:, 1:], inputs[f"idx.{step}"]
        counts = torch.zeros(len(index), 60).scatter_add_(1, drawn, torch.ones(drawn.shape))
        student = inputs[f"feat_s.{step}"].clone().requires_grad_()
        method.zero_grad()
        value = method.contrast(student, inputs[f"feat_t.{step}"], index, torch.arange(60), counts)
        value.backward()
        assert_like(value, expected[f"loss.{step}"])
        assert_like(gradient(student), expected[f"grad.feat_s.{step}"])
        assert_like(method.z, expected[f"z.{step}"])
        for ours, theirs in (("embed_student", "embed_s"), ("embed_other", "embed_t")):
            norms = below(expected, f"gradnorm.{step}.{theirs}.linear.")
            assert norms or step not in (0, 3)
            for part, norm in norms.items():
                assert_like(gradient(getattr(getattr(method, ours), part)).norm(), norm)
    assert_like(method.bank_student, expected["memory_v1"])
    assert_like(method.bank_other, expected["memory_v2"])


@pytest.mark.parametrize("case", ["student_larger", "student_smaller", "equal_f4"])
def test_parity_kd_simkd(case: str) -> None:
    fixture = parity_kd("losses", "simkd")
    student = fixture.inputs[f"{case}.feat_s"].clone().requires_grad_()
    teacher = fixture.inputs[f"{case}.feat_t"]
    head = ProjectedHead(32, 48, fixture.config["constructor"][case]["factor"], 4, "linear", 100)
    head.projector.load_state_dict(below(fixture.weights, f"{case}.transfer."))
    head.classifier.load_state_dict(below(fixture.weights, "teacher_classifier."))
    kept: list[torch.Tensor] = []
    head.projector.register_forward_hook(lambda module, given, output: kept.append(output))
    assert_like(head(student), fixture.expected[f"{case}.logits"])
    value = squared_difference(kept[0], teacher).mean()
    value.backward()
    assert_like(value, fixture.expected[f"{case}.loss"])
    assert_like(gradient(student), fixture.expected[f"grad.{case}.feat_s"])
    check_norms(head.projector, below(fixture.expected, f"gradnorm.{case}.transfer."))


@pytest.mark.parametrize("case", ["same", "resized"])
def test_parity_kd_reviewkd(case: str) -> None:
    fixture = parity_kd("losses", "reviewkd")
    names = ("stage1", "stage2", "stage3", "pooled")
    maps = [
        {name: fixture.inputs[f"{case}.feat_{side}.{level}"].clone() for level, name in enumerate(names)}
        for side in "st"
    ]
    student, teacher = ({name: value.flatten(1) if name == "pooled" else value for name, value in one.items()}
                        for one in maps)  # fmt: skip
    student = {name: value.requires_grad_() for name, value in student.items()}
    method: Any = method_on("reviewkd", student, teacher, warmup_epochs=0.0)
    method.load_state_dict(below(fixture.weights, f"{case}."))
    terms = run(method, student, teacher)
    assert_like(terms["loss"] / 5, fixture.expected[f"{case}.loss"])
    for level, name in enumerate(names):
        wanted = fixture.expected[f"grad.{case}.feat_s.{level}"]
        assert_like(gradient(student[name]).view(wanted.shape) / 5, wanted)
    check_norms(method, below(fixture.expected, f"gradnorm.{case}."), 5)
    for level, output in enumerate(method.fused([maps[0][name] for name in names], [maps[1][name] for name in names])):
        if f"{case}.out.{level}" in fixture.expected:
            assert_like(output, fixture.expected[f"{case}.out.{level}"])


def test_parity_kd_reviewkd_shapes() -> None:
    """For networks of the original's tables the adapters found by a pass have as many parameters."""
    folder = parity_kd("losses", "reviewkd").folder.parents[1] / "networks"
    table = json.loads((folder / "reviewkd_feature_shapes.json").read_text())
    compared = 0
    for entry in table.values():
        if "error" in entry:
            continue
        ours, others = [shape[1:] for shape in entry["feat"][1:]], [shape[1:] for shape in entry["fused_outputs"]]
        middle = min(512, ours[-1][0])
        pairs = list(zip(reversed(ours), reversed(others), strict=True))
        abfs = [Fusion(own[0], middle, other[0], place > 0) for place, (own, other) in enumerate(pairs)]
        counted = sum(part.numel() for abf in abfs for part in abf.parameters())
        assert counted == entry["abf_parameters"]
        compared += 1
    assert compared > 10

"""Methods on maps against what the original programs computed: values, gradients, gradients of the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from interfaces.method import Method
from tests.support.map_methods import method_on, run
from tests.support.parity_kd import Fixture, assert_like, parity_kd
from white_box.losses.cc import kernel_difference

LEVELS = {f"stage{level + 1}": f".{level}" for level in range(3)}
WITH_STEM = {"stem": ".0", "stage1": ".1", "stage2": ".2", "stage3": ".3"}
LAST = {"stage3": ""}
HINT = {"conv": "losses.0.regressor.convolution", "bn": "losses.0.regressor.norm"}
CASES: dict[str, tuple[float, Mapping[str, str], str]] = {  # published weight, our names -> the fixture's, stage
    "ab": (1, LEVELS, "initialisation"),
    "at": (1000, LEVELS, "student"),
    "fsp": (1, WITH_STEM, "initialisation"),
    "ft": (200, LAST, "student"),
    "kdsvd": (1, LEVELS, "student"),
    "nst": (50, LEVELS, "student"),
    "sp": (3000, LAST, "student"),
    "vid": (1, LEVELS, "student"),
}


def our_names(name: str) -> dict[str, str]:
    """Beginnings of the fixture's names of adapters -> ours."""
    if name == "vid":
        return {f"{level}": f"losses.{level}" for level in range(3)}
    if name == "ab":
        parts = {"conv": "convolution", "bn": "norm"}
        return {
            f"connectors.{level}.{theirs}": f"losses.{level}.connector.{ours}"
            for level in range(2)
            for theirs, ours in parts.items()
        }
    if name == "ft":
        halves = {
            f"paraphraser.{half}.{3 * layer}": f"losses.0.{half}.{2 * layer}"
            for half in ("encoder", "decoder")
            for layer in range(3)
        }
        return halves | {"translator.encoder": "losses.0.translator"}
    return {}


def renamed(tensors: Mapping[str, torch.Tensor], names: Mapping[str, str], prefix: str = "") -> dict[str, torch.Tensor]:
    """Those whose names begin with the prefix and one of `names`, under ours."""
    found = {}
    for key, value in tensors.items():
        for theirs, ours in names.items():
            if key.startswith(f"{prefix}{theirs}."):
                found[ours + key.removeprefix(prefix + theirs)] = value
    return found


def maps_of(fixture: Fixture, names: Mapping[str, str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(student's, with gradients, teacher's) by our names."""
    student, teacher = (
        {ours: fixture.inputs[f"feat_{side}{end}"].clone() for ours, end in names.items()} for side in "st"
    )
    return {name: value.requires_grad_() for name, value in student.items()}, teacher


def check_adapters(method: Method, fixture: Fixture, names: Mapping[str, str], weight: float, prefix: str) -> None:
    """The norms of all gradients that the fixture has."""
    wanted = renamed(fixture.expected, names, prefix)
    assert len(wanted) == sum(key.startswith(prefix) for key in fixture.expected)
    parameters = dict(method.named_parameters())
    for key, value in wanted.items():
        gradient = parameters[key].grad
        assert gradient is not None, key
        assert_like(gradient.norm() / weight, value)


def skip_other_signs(teacher: Mapping[str, torch.Tensor]) -> None:
    """KDSVD as published takes the singular vectors' signs as they come: another LAPACK may give others."""
    recorded = [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [1] * 8]
    leading = [torch.linalg.svd(maps.flatten(2).mT, full_matrices=False)[2][:, 0] for maps in teacher.values()]
    if [(vectors.sum(dim=1) > 0).int().tolist() for vectors in leading] != recorded:
        pytest.skip("this LAPACK gives singular vectors other signs than that of the fixture")


@pytest.mark.parametrize("name", list(CASES))
def test_parity_kd(name: str) -> None:
    """As built from the published defaults: each level, the sum, its gradient and those of the adapters."""
    weight, names, stage = CASES[name]
    fixture = parity_kd("losses", name)
    student, teacher = maps_of(fixture, names)
    if name == "kdsvd":
        skip_other_signs(teacher)
    method = method_on(name, student, teacher, **({"signs": "free"} if name == "kdsvd" else {}))
    if fixture.weights:
        method.load_state_dict(renamed(fixture.weights, our_names(name)))
    terms = run(method, student, teacher, stage)
    assert_like(terms.pop("loss") / weight, fixture.expected["loss"])
    levels = [key for key in fixture.expected if key.startswith("loss.")]
    assert len(levels) in (0, len(terms))
    for level, value in enumerate(terms.values() if levels else ()):
        assert_like(value / weight, fixture.expected[f"loss.{level}"])
    for ours, end in names.items():
        gradient = student[ours].grad
        assert gradient is not None
        assert_like(gradient / weight, fixture.expected[f"grad.feat_s{end}"])
    check_adapters(method, fixture, our_names(name), weight, "gradnorm.")


def test_parity_kd_ft_paraphraser() -> None:
    fixture = parity_kd("losses", "ft")
    student, teacher = maps_of(fixture, LAST)
    method = method_on("ft", student, teacher)
    method.load_state_dict(renamed(fixture.weights, our_names("ft")))
    terms = run(method, {}, teacher, "paraphraser")
    assert_like(terms["loss"], fixture.expected["init_loss"])
    check_adapters(method, fixture, our_names("ft"), 1.0, "gradnorm_init.")


@pytest.mark.parametrize(("case", "teacher_case", "relu", "key"), [
    ("down", "down", "fit", "loss.down"),
    ("up", "up", "fit", "loss.up"),
    ("valid", "valid", "fit", "loss.valid"),
    ("down", "signed", "always", "loss.signed"),
    ("down", "signed", "fit", "alt.loss.signed"),
    ("down", "signed", "never", "alt.loss.signed"),
])  # fmt: skip
def test_parity_kd_fitnet(case: str, teacher_case: str, relu: str, key: str) -> None:
    fixture = parity_kd("losses", "fitnet")
    student = {"stage2": fixture.inputs[f"feat_s.{case}"].clone().requires_grad_()}
    teacher = {"stage2": fixture.inputs[f"feat_t.{teacher_case}"]}
    method = method_on("fitnet", student, teacher, relu=relu)
    names = {f"{case}.{theirs}": ours for theirs, ours in HINT.items()}
    method.load_state_dict(renamed(fixture.weights, names))
    assert_like(run(method, student, teacher)["loss"] / 100, fixture.expected[key])
    if case == teacher_case:
        assert student["stage2"].grad is not None
        assert_like(student["stage2"].grad / 100, fixture.expected[f"grad.feat_s.{case}"])
        for name, value in renamed(fixture.expected, names, "gradnorm.").items():
            assert_like(dict(method.named_parameters())[name].grad.norm() / 100, value)  # type: ignore[union-attr]
    if case == teacher_case == "down":
        (hint,) = method.losses  # type: ignore[misc]
        assert_like(hint.regressor.norm.running_mean, fixture.expected["running_mean_after.down"])


@pytest.mark.parametrize(("form", "weight", "prefix"), [("kernels", 100, "alt."), ("neighbours", 0.02, "")])
def test_parity_kd_cc(form: str, weight: float, prefix: str) -> None:
    fixture = parity_kd("losses", "cc")
    student = {"pooled": fixture.inputs["feat_s"].clone().requires_grad_()}
    teacher = {"pooled": fixture.inputs["feat_t"]}
    method = method_on("cc", student, teacher, form=form)
    names = {"embed_s.linear": "embed_student", "embed_t.linear": "embed_other"}
    method.load_state_dict(renamed(fixture.weights, names))
    assert_like(run(method, student, teacher)["loss"] / weight, fixture.expected[prefix + "loss"])
    assert student["pooled"].grad is not None
    assert_like(student["pooled"].grad / weight, fixture.expected[prefix + "grad.feat_s"])
    if form == "neighbours":
        check_adapters(method, fixture, names, weight, "gradnorm.")
        return
    embed: Any = method
    squares = kernel_difference(embed.embed_student(student["pooled"]), embed.embed_other(teacher["pooled"]))
    assert_like(squares.sum().sqrt() / squares.numel(), fixture.expected["alt.loss_torchdistill"])

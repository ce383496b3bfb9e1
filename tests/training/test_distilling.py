"""Methods at work: the contract of every entry, stages, sums, and what the first step's check refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from classifiers.networks import build_student
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace
from interfaces.method import Batch, Method, Stage, Views
from layers.features import FeatureReader, Insides
from runtime.errors import UserError
from training.distilling import Distillation, MethodSpace, MethodSum, build_method, check_terms
from training.methods import METHODS

ON_OUTPUTS = {"none", "blkd"}
ON_FEATURES = {"feature_l2", "kernel_alignment"}
ON_FEATURES |= {"ab", "at", "cc", "fitnet", "fsp", "ft", "kdsvd", "nst", "sp", "vid"}
ON_FEATURES |= {"crd", "pkt", "reviewkd", "rkd", "simkd"}
SPACES: dict[str, LabelSpace] = {
    "classes": ClassLabels(("a", "b", "c")), "continuous": ContinuousLabels(-90.0, 90.0, "degrees"),
}  # fmt: skip
ALL = frozenset({"logits", "features", "labels", "sample_index", "rotations"})
EQUAL_WIDTHS = {"fsp", "kdsvd"}  # serve networks of one family and width alone
ROWS = 6


class Pair:
    """A narrow student and a wider teacher, and what a trainer would hand a method of one batch."""

    def __init__(self, kind: str = "classes", teacher: tuple[str, float] = ("vgg8", 0.125)) -> None:
        self.space = SPACES[kind]
        torch.manual_seed(1)
        self.student = build_student("resnet8", 1, 16, self.space, width=0.25)
        self.teacher = build_student(teacher[0], 1, 16, self.space, width=teacher[1]).eval().requires_grad_(False)
        example = (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),)
        insides = Insides(self.student, example, "student"), Insides(self.teacher, example, "teacher")
        self.images = torch.randint(0, 256, (ROWS, 1, 16, 16), dtype=torch.uint8)
        labels = torch.arange(ROWS) % 3 if kind == "classes" else torch.rand(ROWS, 1)
        self.method_space = MethodSpace("method", *insides, self.space, labels)
        self.labels = labels

    def build(self, *names: str, seed: int = 0) -> Method:
        return build_method([METHODS.choose(name) for name in names], self.method_space, seed, ALL)

    def views(self, method: Method, stage: Stage | None = None) -> tuple[Views, Views, Batch]:
        """What the method requires in a stage, by default the last, and nothing else."""
        stage = method.stages()[-1] if stage is None else stage
        if (head := method.head()) is not None:
            self.student.head = head
        images, features = method.inputs(self.images), "features" in method.requires
        student = Views()
        if stage.trains_student:
            student = FeatureReader(self.student, method.student_features if features else ())(images)
        with torch.no_grad():
            teacher = FeatureReader(self.teacher, method.teacher_features if features else ())(images)
        if "logits" not in method.requires:
            teacher = replace(teacher, output=torch.empty(0))
        index = torch.arange(ROWS) if "sample_index" in method.requires else None
        return student, teacher, Batch(self.labels, sample_index=index, stage=stage.name)


def loss_of(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """0 in a stage in which a method adds nothing."""
    return terms["loss"].detach() if terms else torch.zeros(())


@pytest.mark.parametrize("kind", list(SPACES))
@pytest.mark.parametrize("name", list(METHODS))
def test_contract(name: str, kind: str) -> None:
    """Finite named scalars; gradients to the student and all adapters, none to the teacher; state; `requires`."""
    pair = Pair(kind, ("resnet20", 0.25)) if name in EQUAL_WIDTHS else Pair(kind)
    try:
        method = pair.build(name)
    except UserError as error:  # a method for classes alone says so before training
        if kind == "continuous" and "classes" in str(error):
            return
        raise
    assert len(method.inputs(pair.images)) == ROWS * method.rows_per_image
    distillation = Distillation(method, 5)
    again, other = pair.build(name), pair.build(name, seed=1)
    other.load_state_dict(method.state_dict())
    for stage in method.stages():
        views = pair.views(method, stage)
        terms = distillation(*views)
        assert all(value.shape == () and torch.isfinite(value) for value in terms.values())
        for copy in (again, other):
            assert float(loss_of(copy(*views))) == pytest.approx(float(loss_of(terms)))
        if terms:
            terms["loss"].backward()
    assert sum(float(part.grad.abs().sum()) for part in pair.student.parameters() if part.grad is not None) > 0
    assert all(part.grad is not None and float(part.grad.abs().sum()) > 0 for part in method.parameters())
    assert all(part.grad is None for part in pair.teacher.parameters())
    assert not any("teacher" in entry for entry in method.state_dict())
    for missing in method.requires:
        with pytest.raises(UserError, match=f"method {name} requires {missing}: not today"):
            build_method([METHODS.choose(name)], pair.method_space, 0, ALL - {missing}, {missing: "not today"})


def test_the_contract_runs_over_every_entry() -> None:
    assert set(METHODS) >= ON_OUTPUTS | ON_FEATURES
    (marks,) = [mark for mark in test_contract.pytestmark if mark.args[0] == "name"]  # type: ignore[attr-defined]
    assert set(marks.args[1]) == set(METHODS)
    for name, room in (*((name, "classifiers.distillation") for name in ON_OUTPUTS),
                       *((name, "white_box.losses") for name in ON_FEATURES)):  # fmt: skip
        assert METHODS.get(name).__module__.startswith(room)


def test_stages_come_one_after_another() -> None:
    class Staged(Method):
        def stages(self) -> tuple[Stage, ...]:
            return Stage("adapters", share=0.5, trains_student=False), Stage()

    staged = Distillation(Staged(), 10)
    assert staged.steps == 15
    moments = [(staged.at(step).stage.name, staged.at(step).step, staged.at(step).steps) for step in (0, 4, 5, 14)]
    assert moments == [("adapters", 0, 5), ("adapters", 4, 5), ("student", 0, 10), ("student", 9, 10)]
    with pytest.raises(ValueError, match="behind the last"):
        staged.at(15)


def test_a_sum_adds_losses_and_keeps_the_terms() -> None:
    pair = Pair()
    both = pair.build("blkd", "feature_l2")
    assert isinstance(both, MethodSum)
    assert both.requires == {"logits", "labels", "features"}
    found = both(*pair.views(both))
    alone = [pair.build(name)(*pair.views(both)) for name in ("blkd", "feature_l2")]
    assert float(found["loss"].detach()) == pytest.approx(sum(float(one["loss"].detach()) for one in alone))
    assert set(found) == {name for one in alone for name in one}

    class Turning(Method):
        requires = frozenset({"rotations"})

    with pytest.raises(UserError, match="do not go together"):
        MethodSum([pair.build("none"), Turning()])


def test_rotations_are_four_rows_of_each_image() -> None:
    class Turning(Method):
        requires = frozenset({"rotations"})

    images = torch.arange(2 * 3 * 3).view(2, 1, 3, 3)
    turned = Turning().inputs(images)
    assert turned.shape == (8, 1, 3, 3)
    assert torch.equal(turned[::4], images)
    assert torch.equal(turned[5], torch.rot90(images[1], 1, dims=(1, 2)))
    assert Method().inputs(images) is images


class Sketch(Method):
    """Returns what it was given."""

    def __init__(self, **terms: Any) -> None:
        super().__init__()
        self.terms = terms


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (lambda x, y: {"loss": torch.ones(())}, "term loss gives the student's student or the adapters no usable"),
        (lambda x, y: {"loss": x.sum()}, "term loss gives the student's 'b' no usable gradient"),
        (lambda x, y: {"loss": (x * 0).sum() + y.sum()}, "term loss gives the student's 'a'"),
        (lambda x, y: {"loss": (x * float("inf")).sum() + y.sum()}, "term loss gives the student's 'a'"),
        (lambda x, y: {"loss": (x + y).sum(), "t[p -> b]": (y * 0).sum()}, r"term t\[p -> b\] gives the student's 'b'"),
    ],
)
def test_terms_that_train_nothing_are_named(terms: Any, message: str) -> None:
    base = torch.ones(2, requires_grad=True)
    features = {"a": base * 2, "b": base * 3}
    with pytest.raises(UserError, match=message):
        check_terms(Sketch(), terms(*features.values()), Views(base.sum(), features))


def test_sound_terms_pass_and_figures_need_no_gradient() -> None:
    class Logged(Method):
        figures = frozenset({"kept"})

    base = torch.ones(2, requires_grad=True)
    features = {"a": base * 2, "b": base * 3}
    check_terms(
        Logged(), {"loss": features["a"].sum() + features["b"].sum(), "kept": torch.ones(())}, Views(base, features)
    )
    with pytest.raises(UserError, match="gives the student's 'a' no usable"):  # a frozen module
        check_terms(Logged(), {"loss": base.sum()}, Views(base, {"a": torch.ones(2)}))


def test_without_insides_a_method_on_features_is_refused() -> None:
    space = replace(Pair().method_space, teacher=None)
    assert isinstance(build_method([METHODS.choose("blkd")], space, 0, ALL), Method)
    with pytest.raises(UserError, match="method feature_l2 reads the teacher's features"):
        build_method([METHODS.choose("feature_l2")], space, 0, ALL)


def test_adapters_follow_from_the_seed_alone() -> None:
    pair = Pair()
    torch.manual_seed(99)
    first = pair.build("feature_l2")
    second = pair.build("feature_l2")
    other = pair.build("feature_l2", seed=1)
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert pairs
    assert all(torch.equal(one, two) and not torch.equal(one, three) for one, two, three in pairs)
    assert isinstance(first.losses[0], nn.Module)

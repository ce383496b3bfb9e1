"""RKD, PKT, CRD, SimKD and ReviewKD: slow twins, what they refuse, and what each does on odd batches."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from classifiers.networks import build_student
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace
from interfaces.method import Batch, Method, Views
from layers.features import Insides
from layers.heads import HEADS
from runtime.errors import UserError
from tests.support.map_methods import method_on
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses import crd, rkd
from white_box.losses.crd import contrast_rows, negatives_of, partition, renew
from white_box.losses.pkt import divergences
from white_box.losses.reviewkd import context_rows
from white_box.losses.rkd import angle_rows, distance_rows

CLASSES = ClassLabels(("a", "b", "c"))
RNG = np.random.default_rng(3)


def drawn(*shape: int) -> tuple[np.ndarray, torch.Tensor]:
    values = RNG.normal(size=shape)
    return values, torch.from_numpy(values)


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def slow_distances(x: np.ndarray) -> np.ndarray:
    found = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    return found / found[found > 0].mean()


def slow_angle(x: np.ndarray, i: int, j: int, k: int) -> float:
    one, other = x[j] - x[i], x[k] - x[i]
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0


@pytest.mark.parametrize("entries", [2**24, pytest.param(40, marks=pytest.mark.slow)])
def test_rkd_slow(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by groups of anchors."""
    monkeypatch.setattr(rkd, "_ENTRIES", entries)
    (s, student), (t, teacher) = drawn(5, 3), drawn(5, 4)
    s[2], student[2] = s[0], student[0]
    w = np.array([2.0, 0.5, 1.0, 0.0, 1.5])
    pairs = [smooth_l1(a - b) for a, b in zip(slow_distances(s).ravel(), slow_distances(t).ravel(), strict=True)]
    assert float(distance_rows(student, teacher, None)) == pytest.approx(np.mean(pairs))
    angles = {at: smooth_l1(slow_angle(s, *at) - slow_angle(t, *at)) for at in product(range(5), repeat=3)}
    assert float(angle_rows(student, teacher, None)) == pytest.approx(np.mean(list(angles.values())))
    weighed = sum(w[i] * w[j] * w[k] * value for (i, j, k), value in angles.items()) / 125
    leaf = student.clone().requires_grad_()
    value = angle_rows(leaf, teacher, torch.from_numpy(w).float())
    value.backward()
    assert float(value.detach()) == pytest.approx(weighed, rel=1e-6)
    assert leaf.grad is not None
    assert float(leaf.grad.abs().max()) < 10  # equal rows have no direction, and no huge gradient


def test_a_row_without_weight_moves_nothing() -> None:
    (_, student), (_, teacher) = drawn(5, 3), drawn(5, 4)
    weights = torch.tensor([1.25, 1.25, 1.25, 1.25, 0.0])
    other = student.clone()
    other[4] += 7.0
    for loss in (
        lambda x: distance_rows(x, teacher, weights),
        lambda x: angle_rows(x, teacher, weights),
        lambda x: (divergences(x, teacher, weights) * weights).mean(),
    ):
        assert float(loss(other)) == pytest.approx(float(loss(student)))


def test_pkt_slow() -> None:
    (s, student), (t, teacher) = drawn(6, 3), drawn(6, 5)

    def near(x: np.ndarray) -> np.ndarray:
        unit = [row / (np.linalg.norm(row) + 1e-7) for row in x]
        kernel = np.array([[(1 + a @ b) / 2 for b in unit] for a in unit])
        return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))

    p, q = near(t), near(s)
    wanted = (p * np.log((p + 1e-7) / (q + 1e-7))).sum(axis=1)
    assert divergences(student, teacher).numpy() == pytest.approx(wanted)


def test_reviewkd_slow() -> None:
    (s, student), (t, teacher) = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4)

    def pooled(x: np.ndarray, size: int) -> np.ndarray:
        step = 4 // size
        return np.asarray(x.reshape(2, 3, size, step, size, step).mean(axis=(3, 5)))

    parts = [(share, pooled(s, size) - pooled(t, size)) for share, size in ((1.0, 4), (0.5, 2), (0.25, 1))]
    wanted = sum(share * (apart**2).mean(axis=(1, 2, 3)) for share, apart in parts) / 1.75
    assert context_rows(student, teacher).numpy() == pytest.approx(wanted, rel=1e-5)


def test_reviewkd_warms_up() -> None:
    maps = {"stage1": torch.randn(4, 3, 4, 4), "pooled": torch.randn(4, 3)}
    method = method_on("reviewkd", maps, maps, warmup_epochs=10.0).eval()
    views, values = Views(features=maps), []
    for epoch in (0.0, 5.0, 10.0, 50.0):
        terms = method(views, views, Batch(torch.empty(0), epoch=epoch, steps=100))
        values.append(float(terms["loss"].detach()))
    assert values[0] > 0
    assert [value / values[-1] for value in values[1:]] == pytest.approx([0.501, 1.0, 1.0])


def test_crd_slow() -> None:
    (e, anchors), (near, positives), (bank, columns) = drawn(3, 4), drawn(3, 4), drawn(5, 4)
    counts = np.array([[1.0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 2, 0]])
    images, negatives, tau, eps = 9, 2, 0.5, 1e-7
    hits = np.exp((e * near).sum(axis=1) / tau)
    far = np.exp(e @ bank.T / tau)
    z = images * (hits.sum() + (counts * far).sum()) / (3 + counts.sum())
    noise = negatives / images
    wanted = [
        -np.log(hits[i] / z / (hits[i] / z + noise + eps))
        - sum(counts[i, j] * np.log(noise / (far[i, j] / z + noise + eps)) for j in range(5))
        for i in range(3)
    ]
    given = torch.from_numpy(counts)
    found = partition(anchors, positives, columns, given, images, tau)
    assert float(found) == pytest.approx(z)
    assert contrast_rows(anchors, positives, columns, given, found, noise, tau).numpy() == pytest.approx(wanted)


def test_negatives_are_k_of_other_classes() -> None:
    classes = torch.arange(40) % 4
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    columns, counts = negatives_of(classes, classes[:6], order, 7, 10)
    assert counts.sum(dim=1).tolist() == [7.0] * 6
    assert set(counts.unique().tolist()) == {0.0, 1.0}
    assert not bool(((classes[columns][None] == classes[:6, None]) & (counts > 0)).any())
    for row in range(6):
        others = [int(column) for column in order if classes[column] != classes[row]]
        assert columns[counts[row] > 0].tolist() == others[:7]
    few, weighed = negatives_of(classes, classes[:6], order, 60, 10)  # 30 there are
    assert sorted(few.tolist()) == list(range(40))
    assert weighed.sum(dim=1).tolist() == pytest.approx([60.0] * 6)
    assert set(weighed.unique().tolist()) == {0.0, 2.0}


def test_of_equal_indexes_the_last_row_enters_the_bank() -> None:
    bank, new = torch.nn.functional.normalize(torch.randn(5, 3), dim=1), torch.randn(4, 3)
    wanted = bank.clone()
    wanted[2], wanted[4] = (torch.nn.functional.normalize(0.5 * bank[at] + 0.5 * new[row], dim=0)
                            for at, row in ((2, 3), (4, 1)))  # fmt: skip
    renew(bank, torch.tensor([2, 4, 2, 2]), new, 0.5)
    assert torch.allclose(bank, wanted)


def built(
    name: str, labels: LabelSpace = CLASSES, teacher: tuple[str, float] = ("resnet8", 0.5), **settings: Any
) -> Method:
    insides = []
    for owner, (entry, width) in (("student", ("resnet8", 0.25)), ("teacher", teacher)):
        network = build_student(entry, 1, 16, labels, width=width)
        insides.append(Insides(network, (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),), owner))
    rows = torch.arange(12) % 3 if labels.kind == "classes" else torch.rand(12, 1)
    method: Method = METHODS.build(METHODS.choose(name, settings), MethodSpace(name, *insides, labels, rows))
    return method


def crd_step(method: Method, step: int) -> tuple[float, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    views = [Views(features={"pooled": torch.randn(4, width, generator=generator)}) for width in method.widths]  # type: ignore
    index = torch.tensor([1, 5, 1, 8])
    value = method(*views, Batch(index % 3, sample_index=index, step=step))["loss"]
    return float(value.detach()), method.z.clone()  # type: ignore[operator]


@pytest.mark.slow
def test_crd_is_the_same_by_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one, other = built("crd", negatives=5), built("crd", negatives=5)
    other.load_state_dict(one.state_dict())
    first = [crd_step(one, step)[0] for step in range(3)]
    monkeypatch.setattr(crd, "_ENTRIES", 20)
    assert [crd_step(other, step)[0] for step in range(3)] == pytest.approx(first)


def test_crd_goes_on_from_a_saved_state() -> None:
    one = built("crd", negatives=5)
    for step in range(3):
        crd_step(one, step)
    saved = {name: value.clone() for name, value in one.state_dict().items()}
    then = [crd_step(one, step) for step in (3, 4)]
    resumed = built("crd", negatives=5)
    resumed.load_state_dict(saved)
    for step, (value, z) in zip((3, 4), then, strict=True):
        found, own = crd_step(resumed, step)
        assert found == value
        assert torch.equal(own, z)


def test_z_stays_or_moves() -> None:
    still, moving = built("crd", normaliser="first"), built("crd")
    for method, stays in ((still, True), (moving, False)):
        first, second = crd_step(method, 0)[1], crd_step(method, 1)[1]
        assert bool((first > 0).all())
        assert torch.equal(first, second) == stays


def test_simkd_gives_the_student_the_teachers_classifier() -> None:
    continuous = ContinuousLabels(-90.0, 90.0, "degrees")
    for labels in (CLASSES, continuous):
        method = built("simkd", labels)
        head: Any = method.head()
        assert not list(method.parameters())
        assert not any(part.requires_grad for part in head.classifier.parameters())
        again: Any = HEADS.get(head.card["name"])(**head.card["arguments"])
        again.load_state_dict(head.state_dict())
        maps = torch.randn(3, 16, 8, 8)  # larger than the teacher's 4 x 4
        assert torch.equal(again.eval()(maps), head.eval()(maps))
        before = {name: value.clone() for name, value in head.classifier.state_dict().items()}
        head.train()(maps)
        assert all(torch.equal(value, before[name]) for name, value in head.classifier.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: built("rkd", pairs=("stage1:stage1", "pooled:pooled")), "rkd compares one vector an image; name one"),
        (lambda: built("rkd", distance_weight=0.0, angle_weight=0.0), "are both 0; set one above 0"),
        (lambda: built("pkt", pairs=("stage9:pooled",)), "teacher has no feature 'stage9'"),
        (lambda: built("crd", ContinuousLabels(0.0, 1.0, "m")), "other classes, and these labels are continuous; take"),
        (lambda: built("simkd", teacher=("mobilenetv3", 1.0)), "classifier reads something else than a stage's means"),
        (lambda: built("reviewkd", pairs=("stage1",)), "TEACHER:STUDENT"),
        (lambda: method_on("crd", {"pooled": torch.zeros(2, 3)}, {"pooled": torch.zeros(2, 3)}), "labels are continu"),
        (lambda: method_on("simkd", {"pooled": torch.zeros(2, 3)}, {"pooled": torch.zeros(2, 3)}), "not known here"),
    ],
)  # fmt: skip
def test_refused_before_training(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()

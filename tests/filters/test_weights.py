"""Importance weights: their formula, what they aim at, the loss that takes them, and the way through the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers import STUDENTS, ClassifierSettings, train_classifier
from filters import select
from filters.weights import importance_weights
from image_data.fake import Selection, open_fakes
from image_data.labels import ClassLabels
from image_data.sources import ArraySource, Concatenation
from interfaces.method import Batch, Views
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.plan import SamplingParts
from teacher_sampler.sampling.sampler import sample
from tests.support.tiny_sampling import CLASSES, TinyAcceptance, TinyParts, class_plan, save_tiny_teacher, tiny_settings
from training.distilling import MethodSpace
from training.methods import METHODS


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 99), quantile=st.sampled_from([0.5, 0.9, 1.0]))
def test_weights_are_their_formula(count: int, seed: int, quantile: float) -> None:
    random = np.random.default_rng(seed)
    ratio, groups = random.exponential(size=count), random.integers(0, 3, count)
    found, facts = importance_weights(ratio, groups, quantile)
    assert found.dtype == np.float32
    slow, above = np.zeros(count), 0.0
    for row in range(count):
        mine = ratio[groups == groups[row]]
        limit = np.quantile(mine, quantile)
        slow[row] = min(ratio[row], limit) / np.mean([min(value, limit) for value in mine])
        above += max(ratio[row] - limit, 0.0)
    np.testing.assert_allclose(found, slow, rtol=1e-5)
    assert facts["clipped_mass"] == pytest.approx(above / ratio.sum())
    assert facts["effective_share"] == pytest.approx(slow.sum() ** 2 / (count * (slow**2).sum()), rel=1e-4)
    for group in np.unique(groups):
        assert found[groups == group].mean() == pytest.approx(1.0, rel=1e-4)


def test_weighted_proposals_have_the_targets_moments() -> None:
    """Proposals N(0, 1), target N(1, 0.7): as rejection does, but every draw takes part."""
    random = np.random.default_rng(0)
    x = random.normal(size=200_000)
    ratio = np.exp(-0.5 * ((x - 1.0) / 0.7) ** 2) / 0.7 / np.exp(-0.5 * x**2)
    weights, facts = importance_weights(ratio, np.zeros(len(x), dtype=np.int64), 0.9999)
    mean = float((weights * x).mean())
    assert mean == pytest.approx(1.0, abs=0.02)
    assert float((weights * (x - mean) ** 2).mean()) ** 0.5 == pytest.approx(0.7, abs=0.02)
    assert facts["clipped_mass"] < 0.01
    assert 0.1 < facts["effective_share"] < 0.9


@pytest.mark.parametrize(("name", "given"), [("none", {}), ("none", {"label_smoothing": 0.1}), ("blkd", {})])
@pytest.mark.parametrize("kind", ["classes", "continuous"])
def test_a_weighted_loss_is_the_mean_of_weighted_rows(name: str, given: dict[str, float], kind: str) -> None:
    method = METHODS.build(METHODS.choose(name, given), MethodSpace())
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(9, 4, generator=generator) for _ in range(2))
    labels = torch.arange(9) % 4 if kind == "classes" else torch.rand(9, 4, generator=generator)
    weights = torch.rand(9, generator=generator)

    def terms(rows: slice, weights: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return method(Views(student[rows]), Views(teacher[rows]), Batch(labels[rows], weights))

    alone = [terms(slice(i, i + 1)) for i in range(9)]
    for term, value in terms(slice(None), weights).items():
        slow = np.mean([float(weights[i]) * float(alone[i][term]) for i in range(9)])
        assert float(value) == pytest.approx(slow, rel=1e-5), term
    ones = terms(slice(None), torch.ones(9))
    for term, value in terms(slice(None)).items():
        torch.testing.assert_close(ones[term], value)


class Weighted(ArraySource):
    """Images in memory whose rows do not count alike."""

    weights: np.ndarray


def weighted(pixels: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> ArraySource:
    source = Weighted(pixels, labels)
    object.__setattr__(source, "weights", weights.astype(np.float32))
    return source


def test_a_concatenation_gives_the_others_weight_one() -> None:
    images, labels = np.zeros((4, 1, 16, 16), dtype=np.uint8), np.arange(4) % 2
    plain, heavy = ArraySource(images, labels), weighted(images, labels, np.array([0.5, 1.5, 2.0, 0.0]))
    assert Concatenation([plain, plain]).weights is None
    found = Concatenation([plain, heavy]).weights
    assert found is not None
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 0.5, 1.5, 2.0, 0.0])


def test_rows_of_weight_zero_teach_nothing(tmp_path: Path) -> None:
    """Half the rows have the wrong label: with weight 0 they do no harm, with weight 1 they do."""
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    pixels = random.integers(0, 100, size=(400, 1, 16, 16), dtype=np.uint8)
    pixels[:, :, :8] += (100 * labels)[:, None, None, None].astype(np.uint8)
    space, clean = ClassLabels(("dark", "bright")), ArraySource(pixels[:100], labels[:100])
    wrong = np.where(np.arange(400) < 200, labels, 1 - labels)[100:]
    errors = []
    for name, weight in (("off", 0.0), ("on", 1.0)):
        source = weighted(pixels[100:], wrong, np.where(np.arange(100, 400) < 200, 1.0, weight))
        result = train_classifier(
            source,
            clean,
            space,
            ClassifierSettings(STUDENTS.choose("vgg8_quarter", {"width": 0.5}), steps=60, batch_size=32),
            tmp_path / name,
            torch.device("cpu"),
            (),
        )
        errors.append(result["val_score"])
    assert errors[0] < 0.05
    assert errors[1] > 0.5


class AcceptAll:
    """TinyParts whose ratios are stored and not used."""

    def __init__(self, teacher: Path) -> None:
        self.parts = TinyParts(teacher)

    def __call__(self) -> SamplingParts:
        made = self.parts()
        accept = TinyAcceptance(needs_ratio=False)
        return SamplingParts(made.teacher, made.density_ratio, made.predictor, accept, made.error)


def test_selection_carries_weights(tmp_path: Path) -> None:
    teacher = save_tiny_teacher(tmp_path / "teacher", CLASSES)
    fakes = sample(AcceptAll(teacher), class_plan(40), tiny_settings(), tmp_path / "all", LocalEngine(1))
    assert fakes.density_ratio is not None
    assert fakes.density_ratio.std() > 0
    assert np.array_equal(fakes.sample_index, np.tile(np.arange(40), 3))  # nothing was rejected
    found = select(fakes, rho=0.5, weights="density_ratio", keep="density_ratio rank >= 0.2")
    wanted, facts = importance_weights(fakes.density_ratio[found.rows], fakes.labels[found.rows])
    np.testing.assert_array_equal(found.weights, wanted)
    assert found.recipe["weights"]["clipped_mass"] == facts["clipped_mass"]
    view = fakes.view(found)
    np.testing.assert_array_equal(view.weights, wanted)
    assert fakes.view(select(fakes, rho=0.5)).weights is None
    found.save(tmp_path / "s.safetensors")
    again = Selection.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(again.weights, wanted)
    assert again.digest == found.digest
    assert Selection(found.rows, found.labels, found.recipe, found.fakes_digest).digest != found.digest
    rejected = sample(TinyParts(teacher), class_plan(20), tiny_settings(), tmp_path / "some", LocalEngine(1))
    with pytest.raises(UserError, match="count twice"):
        select(rejected, weights="density_ratio")
    plain = TinyParts(teacher, with_filter=False)
    without = sample(plain, class_plan(20), tiny_settings(filter_digest=""), tmp_path / "none", LocalEngine(1))
    with pytest.raises(UserError, match="without a filter"):
        select(without, weights="density_ratio")


@pytest.mark.xdist_group("workspace")
def test_accept_all_weights_and_repair_as_commands(workspace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fakes = tmp_path / "fakes"
    made = workspace.json(capsys, "sample", f"--out {fakes} --accept all")
    assert made["acceptance_rate"] == 1.0
    assert made["density_ratio"] is not None
    shard = next((fakes / "shards").glob("*.h5"))
    before = shard.read_bytes()
    shard.unlink()
    mended = workspace.json(capsys, "repair", f"--fakes {fakes}")
    assert mended["problems"] == []
    assert shard.read_bytes() == before
    options = f"--fakes {fakes} --weights density_ratio --method none --no-test"
    result = workspace.json(capsys, "distill", f"{options} --out {tmp_path / 'a'}")
    assert result["protocol"]["images"] > 0
    plain = workspace.json(capsys, "distill", f"{options.replace('density_ratio', 'none')} --out {tmp_path / 'b'}")
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] != weights[1]
    assert plain["protocol"]["images"] == result["protocol"]["images"]
    assert workspace.type("distill", f"--weights density_ratio --out {tmp_path / 'c'}") == 2
    assert "count twice" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "a")
    assert open_fakes(fakes).manifest.content["needs_ratio"] is False

"""The sampler: identity of candidates, acceptance, pilot, cut, cap; equal bytes for any engine and order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_data.fake import FakeDataset, describe_fakes, open_fakes, verify_fakes
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.seeds import label_bits, sample_uniforms
from teacher_sampler.sampling.sampler import LabelPlan, sample
from tests.support.tiny_sampling import (
    ANGLES,
    CLASSES,
    BrightnessRatio,
    CountingTeacher,
    TinyParts,
    angle_plan,
    angle_settings,
    class_plan,
    counting_parts,
    file_bytes,
    save_tiny_teacher,
    tiny_settings,
)


class ShufflingEngine:
    """Takes many items ahead and hands the results back in a disorder of its own."""

    def __init__(self, seed: int) -> None:
        self.workers = 4
        self._random = np.random.default_rng(seed)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        pending: list[Any] = []
        source = iter(items)
        while True:
            for item in source:
                pending.append(item)
                if len(pending) == 8:
                    break
            if not pending:
                return
            yield function(pending.pop(int(self._random.integers(len(pending)))))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def angle_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("angles"), ANGLES)


@pytest.fixture(scope="module")
def fakes(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    out = tmp_path_factory.mktemp("fakes") / "classes"
    return sample(TinyParts(teacher), class_plan(), tiny_settings(), out, LocalEngine(1))


@pytest.fixture(scope="module")
def angles(angle_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    out = tmp_path_factory.mktemp("fakes") / "angles"
    return sample(TinyParts(angle_teacher), angle_plan(), angle_settings(), out, LocalEngine(1))


def test_each_label_has_its_number_and_every_byte_is_right(fakes: FakeDataset, angles: FakeDataset) -> None:
    assert np.array_equal(np.bincount(fakes.labels), [40, 40, 40])
    assert fakes.labels.dtype == np.int64
    values, counts = np.unique(angles.labels, return_counts=True)
    assert np.array_equal(values, np.linspace(-80.0, 80.0, 7))
    assert set(counts) == {6}
    assert verify_fakes(fakes.path) == []
    assert verify_fakes(angles.path) == []


@pytest.mark.parametrize("kind", ["classes", "angles"])
def test_stored_values_follow_from_the_definition(kind: str, request: pytest.FixtureRequest) -> None:
    """Latents, uniforms, ratio, acceptance, cut and scores, each recomputed by the plain definition."""
    fakes: FakeDataset = request.getfixturevalue("fakes" if kind == "classes" else "angles")
    parts = TinyParts(request.getfixturevalue("teacher" if kind == "classes" else "angle_teacher"))()
    keys = np.stack([label_bits(fakes.labels), fakes.sample_index], axis=1)
    rows = np.arange(len(fakes))
    latents = fakes.latents(rows)
    assert latents is not None
    assert np.array_equal(latents, parts.teacher.latents(keys, 11).numpy())
    again = quantise(parts.teacher.generate(torch.from_numpy(latents), fakes.labels, keys, 0))
    images = fakes.images(rows)
    assert np.abs(again.numpy().astype(int) - images).max() <= 1
    ratio = BrightnessRatio()(torch.from_numpy(images), fakes.labels).numpy()
    assert np.allclose(ratio, fakes.density_ratio, rtol=1e-6)
    scores = fakes.scores()
    assert parts.predictor is not None
    output = parts.predictor(torch.from_numpy(images))
    assert np.allclose(scores.output, output.numpy().reshape(scores.output.shape), rtol=2e-3, atol=2e-3)
    assert np.allclose(scores.error, parts.error(output, fakes.labels), rtol=1e-4, atol=1e-4)
    ceilings = {
        int(bits): m
        for bits, m in zip(label_bits(fakes.manifest.labels), fakes.manifest.content["ceilings"], strict=True)
    }
    kept: dict[int, list[int]] = {}
    for unit in fakes.ledger():
        bits = label_bits(unit.label)
        uniforms = sample_uniforms(np.stack([bits, unit.k], axis=1), 11, "accept", 1)[:, 0]
        expected = uniforms <= unit.r / np.array([ceilings[int(bit)] for bit in bits])
        assert np.array_equal(expected, unit.accepted)
        for bit, k in zip(bits[expected], unit.k[expected], strict=True):
            kept.setdefault(int(bit), []).append(int(k))
    for label in fakes.manifest.labels:
        mine = fakes.sample_index[fakes.labels == label].tolist()
        bit = int(label_bits(np.array([label]))[0])
        assert mine == sorted(kept[bit])[: int(fakes.manifest.content["per_label"])]


def test_same_bytes_for_two_worker_processes(teacher: Path, fakes: FakeDataset, tmp_path: Path) -> None:
    again = sample(TinyParts(teacher), class_plan(), tiny_settings(), tmp_path / "two", LocalEngine(2))
    assert again.digest == fakes.digest
    assert file_bytes(again.path) == file_bytes(fakes.path)


@pytest.mark.parametrize("seed", [0, 1])
def test_same_bytes_in_any_order(
    teacher: Path, angle_teacher: Path, fakes: FakeDataset, angles: FakeDataset, seed: int, tmp_path: Path
) -> None:
    again = sample(TinyParts(teacher), class_plan(), tiny_settings(), tmp_path / "a", ShufflingEngine(seed))
    assert again.digest == fakes.digest
    assert file_bytes(again.path) == file_bytes(fakes.path)
    again = sample(TinyParts(angle_teacher), angle_plan(), angle_settings(), tmp_path / "b", ShufflingEngine(seed))
    assert again.digest == angles.digest
    assert file_bytes(again.path) == file_bytes(angles.path)


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_near_equality_over_block_sizes(
    angle_teacher: Path, angles: FakeDataset, block_size: int, tmp_path: Path
) -> None:
    """Equal latents and labels, pixels within one level, membership equal but for near-ties."""
    other = sample(
        TinyParts(angle_teacher), angle_plan(), angle_settings(block_size=block_size), tmp_path / "o", LocalEngine(1)
    )
    for one, two in zip(angles.ledger(), other.ledger(), strict=True):
        assert np.array_equal(one.k, two.k)
        assert np.array_equal(one.label, two.label)
        differing = one.accepted != two.accepted
        keys = np.stack([label_bits(one.label), one.k], axis=1)
        margin = np.abs(sample_uniforms(keys, 11, "accept", 1)[:, 0] - one.r / np.asarray(_bounds(angles, one.label)))
        assert (margin[differing] < 1e-4).all()
    assert np.array_equal(angles.labels, other.labels)
    assert np.array_equal(angles.sample_index, other.sample_index)
    rows = np.arange(len(angles))
    assert np.array_equal(angles.latents(rows), other.latents(rows))
    assert np.abs(angles.images(rows).astype(int) - other.images(rows)).max() <= 1


def _bounds(fakes: FakeDataset, labels: np.ndarray) -> list[float]:
    places = np.searchsorted(fakes.manifest.labels, labels)
    return [fakes.manifest.content["ceilings"][place] for place in places]


def test_quantise_rounds_half_to_even_and_clamps() -> None:
    values = np.random.default_rng(0).uniform(-1.1, 1.1, 1000).astype(np.float32)
    found = quantise(torch.from_numpy(values))
    twin = np.clip(np.rint((values + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    assert np.array_equal(found.numpy(), twin)
    assert quantise(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_without_filter_and_predictor(tmp_path: Path) -> None:
    """A black box without latents: the first n candidates, exact pixels, no ratio, no scores."""
    settings = tiny_settings(filter_digest="", predictor_digest="")
    found = sample(counting_parts, LabelPlan.classes(CLASSES, 50), settings, tmp_path / "o", LocalEngine(1))
    assert np.array_equal(found.sample_index, np.tile(np.arange(50), 3))
    assert np.array_equal(found.images(np.arange(150)), CountingTeacher().levels(found.labels, found.sample_index))
    assert found.density_ratio is None
    assert found.latents(np.array([0])) is None
    assert found.score_sets() == []
    with pytest.raises(UserError, match="no single score set"):
        found.scores()
    with pytest.raises(UserError, match="no latents"):
        found.view().latents(np.array([0]))
    assert describe_fakes(found.path)["acceptance_rate"] == 1.0
    assert not (found.path / "pilot").exists()


def test_two_dimensional_labels(tmp_path: Path) -> None:
    from image_data.labels import ContinuousLabels

    space = ContinuousLabels(low=0.0, high=1.0, dimension=2)
    teacher = save_tiny_teacher(tmp_path / "t", space)
    plan = LabelPlan.values(space, np.array([[0.1, 0.2], [0.1, 0.9], [0.5, 0.5]]), 5)
    parts = TinyParts(teacher, with_filter=False)
    found = sample(parts, plan, angle_settings(), tmp_path / "o", LocalEngine(1))
    assert found.labels.shape == (15, 2)
    assert found.scores().output.shape == (15, 2)
    assert found.scores().error.shape == (15,)
    assert verify_fakes(found.path) == []
    assert sum(int(unit.accepted.sum()) for unit in found.ledger()) == 60


def test_running_maximum(teacher: Path, tmp_path: Path) -> None:
    found = sample(TinyParts(teacher), class_plan(10), tiny_settings(running_max=True), tmp_path / "o", LocalEngine(1))
    assert len(found) == 30
    for unit in found.ledger():
        ceiling = found.manifest.content["ceilings"][int(unit.label[0])]
        keys = np.stack([unit.label, unit.k], axis=1)
        uniforms = sample_uniforms(keys, 11, "accept", 1)[:, 0]
        for start in range(0, 64, 32):
            ceiling = max(ceiling, float(unit.r[start : start + 32].max()))
            span = slice(start, start + 32)
            assert np.array_equal(unit.accepted[span], uniforms[span] <= unit.r[span] / ceiling)


def test_a_longer_dataset_keeps_the_shards(teacher: Path, fakes: FakeDataset, tmp_path: Path) -> None:
    out = tmp_path / "o"
    sample(TinyParts(teacher), class_plan(15), tiny_settings(), out, LocalEngine(1))
    short = file_bytes(out)
    with pytest.raises(UserError, match="begun with 15"):
        sample(TinyParts(teacher), class_plan(40), tiny_settings(), out, LocalEngine(1))
    longer = sample(TinyParts(teacher), class_plan(40), tiny_settings(), out, LocalEngine(1), extend=True)
    assert longer.digest == fakes.digest
    assert {name: data for name, data in file_bytes(out).items() if name in short} == short
    with pytest.raises(UserError, match="select fewer"):
        sample(TinyParts(teacher), class_plan(15), tiny_settings(), out, LocalEngine(1), extend=True)


def test_a_finished_folder_returns_at_once(fakes: FakeDataset) -> None:
    before = file_bytes(fakes.path)

    def refuse() -> Any:
        raise AssertionError("nothing may be built")

    again = sample(refuse, class_plan(), tiny_settings(), fakes.path, LocalEngine(1))
    assert again.digest == fakes.digest
    assert file_bytes(fakes.path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 12}, "seed"), ({"block_size": 16}, "block_size"), ({"teacher_digest": "x"}, "teacher_digest")],
)
def test_other_settings_are_refused(fakes: FakeDataset, teacher: Path, change: dict[str, Any], named: str) -> None:
    before = file_bytes(fakes.path)
    with pytest.raises(UserError, match=named):
        sample(TinyParts(teacher), class_plan(), tiny_settings(**change), fakes.path, LocalEngine(1))
    other = LabelPlan(np.array([0, 2]), 40)
    with pytest.raises(UserError, match="labels"):
        sample(TinyParts(teacher), other, tiny_settings(), fakes.path, LocalEngine(1))
    assert file_bytes(fakes.path) == before


def test_what_was_left_open_is_taken_from_the_run(teacher: Path, tmp_path: Path) -> None:
    first = sample(TinyParts(teacher), class_plan(5), tiny_settings(unit_candidates=None), tmp_path, LocalEngine(1))
    again = sample(TinyParts(teacher), class_plan(5), tiny_settings(unit_candidates=None), tmp_path, LocalEngine(1))
    assert again.digest == first.digest
    assert first.manifest.settings["unit_candidates"] == 32


def test_a_starving_label_is_named(teacher: Path, tmp_path: Path) -> None:
    settings = tiny_settings(max_candidates_per_label=128)
    with pytest.raises(UserError, match=r"label 0 \(zero\) starves.*raise the cap"):
        sample(TinyParts(teacher), class_plan(1000), settings, tmp_path / "far", LocalEngine(1))
    with pytest.raises(UserError, match=r"label . \(\w+\) starves: \d+ of 128 candidates were accepted"):
        sample(TinyParts(teacher), class_plan(29), settings, tmp_path / "near", LocalEngine(1))
    found = sample(TinyParts(teacher), class_plan(29), tiny_settings(), tmp_path / "near", LocalEngine(1))
    assert len(found) == 87


def test_an_all_zero_pilot_names_the_label(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label 1 \(one\)"):
        sample(TinyParts(teacher, dead=(1,)), class_plan(), tiny_settings(), tmp_path / "o", LocalEngine(1))


def test_impossible_plans_are_refused(teacher: Path, tmp_path: Path) -> None:
    engine = LocalEngine(1)
    plans = [LabelPlan(np.array([0, 7]), 5), LabelPlan(np.array([0, 0]), 5), LabelPlan(np.array([0.5]), 5)]
    for number, plan in enumerate([*plans, LabelPlan(np.array([0]), 0)]):
        with pytest.raises(UserError):
            sample(TinyParts(teacher), plan, tiny_settings(), tmp_path / str(number), engine)
        assert not (tmp_path / str(number) / "shards").exists()
    with pytest.raises(UserError, match="block_size"):
        sample(TinyParts(teacher), class_plan(), tiny_settings(block_size=0), tmp_path / "b", engine)


def test_open_wants_a_finished_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fake dataset"):
        open_fakes(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        open_fakes(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        sample(counting_parts, class_plan(), tiny_settings(), tmp_path, LocalEngine(1))

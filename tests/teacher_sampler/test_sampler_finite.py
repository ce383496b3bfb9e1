"""Teachers with a fixed number of images of each label: units are cut, labels run out, and all promises hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_data.fake import FakeDataset, describe_fakes, open_fakes, verify_fakes
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace, TeacherCard
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.seeds import label_bits
from teacher_sampler.sampling.plan import PILOT_START, LabelPlan, SamplingParts, Unit, candidate_keys
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.upkeep.repair import repair
from tests.support.tiny_sampling import (
    BrightnessRatio,
    TinyAcceptance,
    class_error,
    file_bytes,
    make_predictor,
    tiny_settings,
    value_error,
)
from tests.teacher_sampler.test_sampler_units import ShufflingEngine

CATS = ClassLabels(("dog", "cow", "hen", "cat"))
TURNS = ContinuousLabels(low=0.0, high=90.0, unit="degrees")


class FiniteTeacher:
    """So many images of each label, grey noise of 16 x 16 named by (label, k); `asked` remembers every key."""

    def __init__(self, space: LabelSpace, labels: np.ndarray, counts: tuple[int, ...]) -> None:
        self.label_space = space
        self.counts = dict(zip(label_bits(labels).tolist(), counts, strict=True))
        self.asked: list[np.ndarray] = []
        self.card = TeacherCard(
            architecture="finite",
            arguments={},
            resolution_px=16,
            channels=1,
            label_space=space.to_json(),
            latent={},
            truncation={},
            source_digest="",
            licence="none",
            allowed_augmentations=[],
        )

    def latents(self, keys: np.ndarray, seed: int) -> None:
        return None

    def candidates(self, labels: np.ndarray) -> np.ndarray:
        return np.array([self.counts.get(int(bits), 0) for bits in label_bits(labels)], dtype=np.int64)

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        self.asked.append(keys.copy())
        images = []
        for bits, k in keys.tolist():
            count = self.counts[bits]
            k = k % count if k >= PILOT_START else k
            if k >= count:
                raise ValueError("beyond the end")
            rng = np.random.default_rng(abs(bits) % 2**32 * 100_000 + k)
            images.append(np.clip(rng.normal(rng.normal(0, 0.2), 0.3, (1, 16, 16)), -1, 1))
        return torch.from_numpy(np.stack(images).astype(np.float32))


@dataclass(frozen=True)
class FiniteParts:
    """Picklable `make_parts`."""

    counts: tuple[int, ...]
    with_filter: bool = False
    with_predictor: bool = False
    values: tuple[float, ...] | None = None

    def __call__(self) -> SamplingParts:
        space: LabelSpace = CATS if self.values is None else TURNS
        labels = np.arange(len(self.counts)) if self.values is None else np.array(self.values)
        return SamplingParts(
            FiniteTeacher(space, labels, self.counts),
            BrightnessRatio() if self.with_filter else None,
            make_predictor(space.width) if self.with_predictor else None,
            TinyAcceptance(needs_ratio=self.with_filter),
            class_error if self.values is None else value_error,
        )


def settings(**changes: Any) -> Any:
    fixed = {
        "unit_candidates": 24,
        "block_size": 16,
        "pilot_candidates": 40,
        "filter_digest": "",
        "predictor_digest": "",
    }
    return tiny_settings(**{**fixed, **changes})


def group_settings(**changes: Any) -> Any:
    return settings(**{"group_size": 3, "unit_candidates": 10, "ceiling_neighbours": 3, **changes})


COUNTS = (50, 61, 48, 90)
VALUES = (5.0, 10.0, 20.0, 40.0, 80.0)
VALUE_COUNTS = (12, 25, 9, 31, 10)


def filtered(counts: tuple[int, ...] = (400, 300, 500, 350)) -> FiniteParts:
    return FiniteParts(counts, with_filter=True, with_predictor=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """All that the smallest class has: the last unit is cut."""
    out = tmp_path_factory.mktemp("finite") / "fakes"
    return sample(FiniteParts(COUNTS), LabelPlan.classes(CATS, 48), settings(), out, LocalEngine(1))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """Continuous labels in groups, in which the labels end at different k."""
    out = tmp_path_factory.mktemp("finite") / "turned"
    plan = LabelPlan.values(TURNS, np.array(VALUES), 9)
    parts = FiniteParts(VALUE_COUNTS, values=VALUES, with_predictor=True)
    return sample(parts, plan, group_settings(), out, LocalEngine(1))


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """With a filter, so that units beyond the first are needed and labels of a group end within one."""
    out = tmp_path_factory.mktemp("finite") / "rejected"
    plan = LabelPlan.classes(CATS, 60)
    return sample(filtered(), plan, settings(group_size=3, unit_candidates=80), out, LocalEngine(1))


def test_every_image_is_used_once_and_none_beyond_the_end(whole: FakeDataset) -> None:
    assert np.array_equal(np.bincount(whole.labels), [48] * 4)
    assert np.array_equal(whole.sample_index, np.tile(np.arange(48), 4))
    assert verify_fakes(whole.path) == []
    assert whole.manifest.content["available"] == list(COUNTS)
    assert json.loads((whole.path / "run.json").read_text())["content"]["available"] == list(COUNTS)
    assert describe_fakes(whole.path)["candidates"] == 48 * 4


def test_units_hold_existing_candidates_only(rejected: FakeDataset, turned: FakeDataset) -> None:
    """The ledger against the plain definition; groups of three have labels that end within a unit."""
    for fakes in (rejected, turned):
        content, _ = load_run(fakes.path)
        assert content.available is not None
        seen: dict[int, list[int]] = {}
        cut = 0
        for entry, unit in zip(fakes.manifest.shards, fakes.ledger(), strict=True):
            rows = content.group_rows(entry.group)
            group, available = content.labels[rows], content.available[rows]
            first = entry.index * content.unit_candidates
            counts = np.clip(np.array(available) - first, 0, content.unit_candidates)
            cut += int((counts < content.unit_candidates).sum())
            assert np.array_equal(unit.label, np.repeat(group, counts))
            assert np.array_equal(unit.k, np.concatenate([np.arange(first, first + count) for count in counts]))
            assert len(unit.k) == entry.candidates
            for bits, k in zip(label_bits(unit.label[unit.accepted]), unit.k[unit.accepted], strict=True):
                seen.setdefault(int(bits), []).append(int(k))
        per_label = int(fakes.manifest.content["per_label"])
        for label in fakes.manifest.labels:
            bits = int(label_bits(np.array([label]))[0])
            assert fakes.sample_index[fakes.labels == label].tolist() == sorted(seen[bits])[:per_label]
        assert fakes is rejected or cut > 0
        found = describe_fakes(fakes.path)
        assert found["candidates"] == sum(len(unit.k) for unit in fakes.ledger())
        assert found["accepted"] == sum(int(unit.accepted.sum()) for unit in fakes.ledger())
        assert sum(entry["candidates"] for entry in found["by_label"]) == found["candidates"]


@pytest.mark.parametrize("engine", [lambda: LocalEngine(2), lambda: ShufflingEngine(3), lambda: ShufflingEngine(4)])
def test_same_bytes_for_any_workers_and_order(
    engine: Callable[[], Any], turned: FakeDataset, rejected: FakeDataset, tmp_path: Path
) -> None:
    plan = LabelPlan.values(TURNS, np.array(VALUES), 9)
    parts = FiniteParts(VALUE_COUNTS, values=VALUES, with_predictor=True)
    again = sample(parts, plan, group_settings(), tmp_path / "turned", engine())
    assert again.digest == turned.digest
    assert file_bytes(again.path) == file_bytes(turned.path)
    more = settings(group_size=3, unit_candidates=80)
    again = sample(filtered(), LabelPlan.classes(CATS, 60), more, tmp_path / "rejected", engine())
    assert again.digest == rejected.digest
    assert file_bytes(again.path) == file_bytes(rejected.path)


def test_resume_after_a_stop(rejected: FakeDataset, tmp_path: Path) -> None:
    """A run that ends after two units, and one that loses a shard: the same bytes in the end."""

    class StoppingEngine(LocalEngine):
        def map(self, function: Any, items: Any) -> Any:
            for number, result in enumerate(super().map(function, items)):
                if isinstance(getattr(result, "unit", None), Unit) and number == 2:
                    raise KeyboardInterrupt
                yield result

    more = settings(group_size=3, unit_candidates=80)
    plan = LabelPlan.classes(CATS, 60)
    with pytest.raises(KeyboardInterrupt):
        sample(filtered(), plan, more, tmp_path, StoppingEngine(1))
    assert list((tmp_path / "shards").glob("*.h5"))
    assert not (tmp_path / "manifest.json").exists()
    assert sample(filtered(), plan, more, tmp_path, LocalEngine(1)).digest == rejected.digest
    before = file_bytes(tmp_path)
    victim = sorted((tmp_path / "shards").glob("*.h5"))[-1]
    victim.write_bytes(victim.read_bytes()[:-100])
    assert len(verify_fakes(tmp_path)) == 1
    assert repair(tmp_path, filtered(), LocalEngine(1)) == [victim.name]
    assert file_bytes(tmp_path) == before
    assert verify_fakes(tmp_path) == []


def test_running_out_is_said_before_any_work(tmp_path: Path) -> None:
    parts = FiniteParts((1000, 1000, 1000, 812))
    with pytest.raises(
        UserError, match=r"^label 3 \(cat\) has only 812 images, and 1000 are wanted; ask for fewer, or "
    ):
        sample(parts, LabelPlan.classes(CATS, 1000), settings(), tmp_path / "a", LocalEngine(1))
    assert not (tmp_path / "a" / "run.json").exists()
    empty = FiniteParts((5, 0), values=(5.0, 10.0))
    with pytest.raises(UserError, match=r"^label 10.0 degrees has no images; ask for labels that the teacher has"):
        sample(empty, LabelPlan.values(TURNS, np.array([5.0, 10.0]), 2), settings(), tmp_path / "b", LocalEngine(1))
    with pytest.raises(UserError, match=r"label 33.0 degrees has no images"):
        sample(empty, LabelPlan.values(TURNS, np.array([33.0]), 2), settings(), tmp_path / "c", LocalEngine(1))


def test_running_out_under_a_filter_is_said_by_the_pilot(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"label 3 \(cat\) has only 100 images, of which about \d+ are expected to be accepted, and 100"
    ):
        sample(filtered((900, 900, 900, 100)), LabelPlan.classes(CATS, 100), settings(), tmp_path, LocalEngine(1))
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("engine", [LocalEngine(1), ShufflingEngine(0)])
def test_running_out_in_the_end_names_what_was_accepted(engine: Any, tmp_path: Path) -> None:
    """The pilot hopes for half of the number at least; the main run then finds the exact count."""
    found = sample(filtered((400,) * 4), LabelPlan.classes(CATS, 20), settings(), tmp_path / "rate", LocalEngine(1))
    rate = min(entry["acceptance_rate"] for entry in describe_fakes(found.path)["by_label"])
    wanted = int(100 * rate * 1.5)
    with pytest.raises(
        UserError,
        match=rf"label . \(\w+\) has only 100 images, of which \d+ were accepted, and {wanted} are wanted; ask",
    ):
        sample(filtered((100,) * 4), LabelPlan.classes(CATS, wanted), settings(), tmp_path / "out", engine)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_dataset_grows_until_the_teacher_ends(tmp_path: Path) -> None:
    sample(FiniteParts(COUNTS), LabelPlan.classes(CATS, 20), settings(), tmp_path, LocalEngine(1))
    short = file_bytes(tmp_path)
    longer = sample(FiniteParts(COUNTS), LabelPlan.classes(CATS, 48), settings(), tmp_path, LocalEngine(1), extend=True)
    assert len(longer) == 48 * 4
    assert {name: data for name, data in file_bytes(tmp_path).items() if name in short} == short
    with pytest.raises(UserError, match=r"label 2 \(hen\) has only 48 images, and 49 are wanted"):
        sample(FiniteParts(COUNTS), LabelPlan.classes(CATS, 49), settings(), tmp_path, LocalEngine(1), extend=True)
    assert len(open_fakes(tmp_path)) == 48 * 4


def test_no_key_beyond_the_end_is_asked_for(tmp_path: Path) -> None:
    """Blocks are filled up with keys that exist, and no label is drawn beyond what the plan says it has."""
    parts = FiniteParts(COUNTS, with_filter=True)()
    assert isinstance(parts.teacher, FiniteTeacher)
    sample(lambda: parts, LabelPlan.classes(CATS, 12), settings(block_size=37), tmp_path, LocalEngine(1))
    asked = np.concatenate(parts.teacher.asked)
    main = asked[asked[:, 1] < PILOT_START]
    assert (main[:, 1] < np.array(COUNTS)[main[:, 0]]).all()
    assert (asked[:, 1] >= PILOT_START).any()


def test_units_in_which_nothing_was_accepted(tmp_path: Path) -> None:
    """Units of one candidate: many shards hold no image, and still count."""
    small = settings(unit_candidates=1, block_size=4)
    found = sample(filtered((60,) * 4), LabelPlan.classes(CATS, 2), small, tmp_path, LocalEngine(1))
    rows = [entry.rows for entry in found.manifest.shards]
    assert 0 in rows
    assert sum(rows) == 8
    assert verify_fakes(tmp_path) == []
    assert sum(len(unit.k) for unit in found.ledger()) == len(rows)
    assert len(found.scores().error) == 8
    before = file_bytes(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert (
        sample(filtered((60,) * 4), LabelPlan.classes(CATS, 2), small, tmp_path, LocalEngine(1)).digest == found.digest
    )
    assert file_bytes(tmp_path) == before


def test_a_teacher_without_end_leaves_run_files_as_they_were(tmp_path: Path) -> None:
    from tests.support.tiny_sampling import CLASSES, counting_parts

    sample(counting_parts, LabelPlan.classes(CLASSES, 4), settings(), tmp_path, LocalEngine(1))
    content = json.loads((tmp_path / "run.json").read_text())["content"]
    assert "available" not in content
    assert "available" not in open_fakes(tmp_path).manifest.content
    run, _ = load_run(tmp_path)
    assert run.available is None


@pytest.mark.parametrize("available", [[1, 2], [1, 2, 3, "4"], "abcd", 7, [1, 2, 3, None]])
def test_a_damaged_run_file_is_refused(available: Any, whole: FakeDataset, tmp_path: Path) -> None:
    from runtime.digests import digest_of

    found = json.loads((whole.path / "run.json").read_text())
    found["content"]["available"] = available
    found["digest"] = digest_of(found["content"])
    (tmp_path / "run.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        load_run(tmp_path)


@pytest.mark.parametrize("answer", [np.array([1, 2]), np.array([1.5] * 4), np.array([5, -1, 5, 5])])
def test_a_teacher_that_counts_wrongly_is_refused(
    answer: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FiniteTeacher, "candidates", lambda self, labels: answer)
    with pytest.raises(UserError, match="does not say how many images"):
        sample(FiniteParts(COUNTS), LabelPlan.classes(CATS, 1), settings(), tmp_path, LocalEngine(1))


def test_candidate_keys_of_unequal_counts() -> None:
    place, keys = candidate_keys(np.array([7, 8, 9]), 10, np.array([2, 0, 3]))
    assert place.tolist() == [0, 0, 2, 2, 2]
    assert keys.tolist() == [[7, 10], [7, 11], [9, 10], [9, 11], [9, 12]]
    place, keys = candidate_keys(np.array([7, 8]), 0, 2)
    assert keys.tolist() == [[7, 0], [7, 1], [8, 0], [8, 1]]


@pytest.mark.parametrize("engine", [LocalEngine(1), ShufflingEngine(0)])
def test_what_is_there_is_taken_where_that_is_asked_for(engine: Any, tmp_path: Path) -> None:
    parts, taking = FiniteParts((30, 7, 100, 1)), replace(settings(), take_available=True)
    found = sample(parts, LabelPlan.classes(CATS, 40), taking, tmp_path / "a", engine)
    assert np.bincount(found.labels).tolist() == [30, 7, 40, 1]
    assert found.manifest.content["available"] == [30, 7, 100, 1]
    assert verify_fakes(tmp_path / "a") == []
    assert [entry["images"] for entry in describe_fakes(tmp_path / "a")["by_label"]] == [30, 7, 40, 1]
    again = sample(parts, LabelPlan.classes(CATS, 40), taking, tmp_path / "a", engine)
    assert again.digest == found.digest
    longer = sample(parts, LabelPlan.classes(CATS, 60), taking, tmp_path / "a", engine, extend=True)
    assert np.bincount(longer.labels).tolist() == [30, 7, 60, 1]
    assert verify_fakes(tmp_path / "a") == []


def test_taking_what_is_there_names_a_label_without_images_and_needs_no_filter(tmp_path: Path) -> None:
    taking = replace(settings(), take_available=True)
    with pytest.raises(UserError, match=r"label 1 \(\w+\) has no images"):
        sample(FiniteParts((9, 0, 9, 9)), LabelPlan.classes(CATS, 20), taking, tmp_path / "a", LocalEngine(1))
    with pytest.raises(UserError, match=r"--take-available takes every image .* --filter none"):
        sample(filtered((9,) * 4), LabelPlan.classes(CATS, 20), taking, tmp_path / "b", LocalEngine(1))
    assert "take_available" not in settings().content()

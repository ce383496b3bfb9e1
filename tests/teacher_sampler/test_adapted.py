"""Label maps and resizing: pure functions of (seed, label, k), the teacher's own images, bad maps refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_data.labels import ClassLabels, ContinuousLabels
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.seeds import label_bits
from teacher_sampler.adapted import GREY_WEIGHTS, Adaptation, AdaptedTeacher, LabelMap, adapt, read_label_map
from teacher_sampler.sampling.plan import PILOT_START
from tests.support.tiny_sampling import CountingTeacher

SPACE = ClassLabels(("plane", "car", "bird", "cat"))


class Finite(CountingTeacher):
    """Four classes of 5, 3, 9 and 2 images."""

    def candidates(self, labels: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return np.array([5, 3, 9, 2])[labels]


def teacher(kind: type[CountingTeacher] = CountingTeacher) -> CountingTeacher:
    made = kind()
    made.label_space = SPACE
    made.card = replace(made.card, label_space=SPACE.to_json())
    return made


def images(one: object, labels: list[int], k: list[int]) -> torch.Tensor:
    asked = np.array(labels, dtype=np.int64)
    keys = np.stack([label_bits(asked), np.array(k, dtype=np.int64)], axis=1)
    return quantise(one.generate(one.latents(keys, 0), asked, keys, 0))  # type: ignore[attr-defined]


def map_file(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text)
    return path


def test_a_subset_holds_the_same_images(tmp_path: Path) -> None:
    found = read_label_map(map_file(tmp_path, "classes: [cat, 0]\n"), SPACE)
    assert found == LabelMap(("cat", "plane"), ((3,), (0,)))
    mapped = adapt(teacher(), Adaptation(found))
    assert mapped.label_space == ClassLabels(("cat", "plane"))
    assert torch.equal(images(mapped, [0, 0, 1], [0, 7, 7]), images(teacher(), [3, 3, 0], [0, 7, 7]))


def test_merged_classes_take_turns(tmp_path: Path) -> None:
    found = read_label_map(map_file(tmp_path, "classes:\n  machine: [plane, car]\n  animal: [2, cat]\n"), SPACE)
    mapped = adapt(teacher(), Adaptation(found))
    assert mapped.card.label_space["names"] == ["machine", "animal"]
    assert torch.equal(images(mapped, [1, 1, 1, 1], [0, 1, 2, 3]), images(teacher(), [2, 3, 2, 3], [0, 0, 1, 1]))
    pilot = [PILOT_START, PILOT_START + 1]
    assert torch.equal(images(mapped, [0, 0], pilot), images(teacher(), [0, 1], [PILOT_START, PILOT_START]))


@given(st.lists(st.integers(0, 1 << 39), min_size=1, max_size=8), st.integers(0, 1))
def test_no_two_candidates_of_a_merged_class_are_one_image(k: list[int], label: int) -> None:
    mapped = AdaptedTeacher(teacher(), Adaptation(LabelMap(("a", "b"), ((0, 1, 3), (2,)))))
    keys = np.stack([np.full(len(k), label), np.array(k, dtype=np.int64)], axis=1)
    labels, own = mapped._own(keys[:, 0], keys)
    assert np.array_equal(own[:, 0], labels)
    assert len(np.unique(own, axis=0)) == len(np.unique(keys, axis=0))


def test_a_merged_class_ends_with_its_first_source() -> None:
    mapped = adapt(teacher(Finite), Adaptation(LabelMap(("machine", "animal"), ((0, 1), (2, 3)))))
    ends = mapped.candidates(np.array([0, 1]))
    assert ends is not None
    for label, end in enumerate(ends):
        keys = np.stack([np.full(end, label), np.arange(end)], axis=1)
        labels, own = mapped._own(keys[:, 0], keys)  # type: ignore[attr-defined]
        assert (own[:, 1] < Finite().candidates(labels)).all()
        beyond_label, beyond = mapped._own(np.array([label]), np.array([[label, end]]))  # type: ignore[attr-defined]
        assert beyond[0, 1] >= Finite().candidates(beyond_label)[0]


def test_sizes_and_channels() -> None:
    one = teacher()
    before = images(one, [1, 2], [3, 4])
    small = adapt(one, Adaptation(resolution_px=before.shape[-1] // 2))
    assert images(small, [1, 2], [3, 4]).shape[-1] == before.shape[-1] // 2
    grey = adapt(one, Adaptation(channels=1))
    weights = torch.tensor(GREY_WEIGHTS)[None, :, None, None]
    twin = (images(one, [1], [3]) * weights).sum(dim=1, keepdim=True)
    assert (images(grey, [1], [3]) - twin).abs().max() <= 0.51
    colour = adapt(grey, Adaptation(channels=3))
    assert torch.equal(images(colour, [1], [3]), images(grey, [1], [3]).expand(-1, 3, -1, -1))
    assert adapt(one, Adaptation()) is one


def test_grey_is_what_image_libraries_make(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    ours = (colour.astype(np.float64) * GREY_WEIGHTS).sum(axis=2)
    assert np.abs(np.asarray(Image.fromarray(colour).convert("L")).astype(float) - ours).max() <= 1.0


def test_the_adaptation_is_part_of_the_identity() -> None:
    plain, mapped = Adaptation(), Adaptation(LabelMap(("a",), ((0,),)), 16, 3)
    assert plain.identity("d") == "d"
    others = {plain.identity("d"), mapped.identity("d"), Adaptation(resolution_px=16).identity("d")}
    assert len(others | {Adaptation(channels=3).identity("d"), mapped.identity("e")}) == 5
    assert Adaptation.from_json(mapped.to_json()) == mapped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [dog]", "no class 'dog'"),
        ("classes: [4]", "no class 4"),
        ("classes: [0, plane]", "used twice"),
        ("classes: {a: [0], b: []}", "no classes of the teacher"),
        ("classes: [true]", "is no class"),
        ("classes: []", "must hold"),
        ("classes: {a: [0], ' ': [1]}", "a class has no name"),
        ("classes: {a: [017]}", "write a plain number, or quote it"),
        ("labels: [0]", "must hold"),
        ("[", "no readable YAML"),
    ],
)
def test_bad_maps_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_label_map(map_file(tmp_path, text), SPACE)


def test_a_class_may_be_named_no(tmp_path: Path) -> None:
    """YAML's words for truth are names where names stand."""
    assert read_label_map(map_file(tmp_path, "classes: {no: [0], 7: [1]}"), SPACE).names == ("no", "7")


def test_a_name_that_two_classes_bear_needs_their_index(tmp_path: Path) -> None:
    space = ClassLabels(("crane", "cat", "crane"))
    with pytest.raises(UserError, match="classes 0 and 2 are both called 'crane'; give the index"):
        read_label_map(map_file(tmp_path, "classes: [cat, crane]"), space)
    assert read_label_map(map_file(tmp_path, "classes: {bird: 0, machine: [2]}"), space).sources == ((0,), (2,))


def test_values_have_no_classes_to_map(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="values, not classes"):
        read_label_map(map_file(tmp_path, "classes: [0]"), ContinuousLabels(0.0, 1.0))
    with pytest.raises(UserError, match="does not exist"):
        read_label_map(tmp_path / "none.yaml", SPACE)

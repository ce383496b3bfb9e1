"""The numbers of `describe_fakes` against plain definitions, and the parts of a report that are made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands.reporting.calibration import calibration_of
from commands.support.fake_options import describe_text
from evaluation.report import Ranked, ReportData, render, write_png
from evaluation.report.calibration_parts import filter_parts, label_table, plots_of
from image_data.fake import FakeDataset, describe_fakes, open_fakes
from image_data.fake.describe import label_of_rows, rows_by_label
from image_data.fake.variety import label_variety
from image_data.labels import ClassLabels
from image_data.real import load_real
from runtime.engines import LocalEngine
from teacher_sampler.sampling.plan import LabelPlan
from teacher_sampler.sampling.sampler import sample
from tests.support.tiny_sampling import ANGLES, TinyParts, angle_plan, angle_settings, save_tiny_teacher, tiny_settings

MANY = ClassLabels(tuple(f"kind {index:02d}" for index in range(40)))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """Forty classes, more than are listed or drawn one by one."""
    folder = tmp_path_factory.mktemp("many")
    teacher = save_tiny_teacher(folder / "teacher", MANY)
    chosen = tiny_settings(group_size=20, unit_candidates=32, pilot_candidates=32)
    return sample(TinyParts(teacher), LabelPlan.classes(MANY, 12), chosen, folder / "out", LocalEngine(1))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("turned")
    teacher = save_tiny_teacher(folder / "teacher", ANGLES)
    return sample(TinyParts(teacher), angle_plan(6, 30), angle_settings(), folder / "out", LocalEngine(1))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    """Neither filter nor predictor."""
    folder = tmp_path_factory.mktemp("bare")
    teacher = save_tiny_teacher(folder / "teacher", ANGLES)
    parts = TinyParts(teacher, with_filter=False, with_predictor=False)
    chosen = angle_settings(filter_digest="", predictor_digest="")
    return sample(parts, angle_plan(6, 30), chosen, folder / "out", LocalEngine(1))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("name", ["many", "turned"])
def test_every_labels_numbers_are_those_of_the_ledger(name: str, request: pytest.FixtureRequest) -> None:
    fakes: FakeDataset = request.getfixturevalue(name)
    found = json.loads(json.dumps(describe_fakes(fakes.path), allow_nan=False))
    units = list(fakes.ledger())
    label, ratio, accepted = (
        np.concatenate([getattr(unit, part) for unit in units]) for part in ("label", "r", "accepted")
    )
    ratio = ratio.astype(np.float64)
    (errors,) = found["scores"].values()
    every_error = fakes.scores().error.astype(np.float64)
    for place, entry in enumerate(found["by_label"]):
        mine = label == entry["label"]
        assert entry["candidates"] == mine.sum()
        assert entry["accepted"] == accepted[mine].sum()
        assert entry["images"] == (fakes.labels == entry["label"]).sum()
        assert entry["mean_ratio"] == pytest.approx(ratio[mine].mean(), rel=1e-9)
        assert entry["ratio_deviation"] == pytest.approx(ratio[mine].std(), rel=1e-6, abs=1e-9)
        above = np.maximum(ratio[mine] - entry["ceiling"], 0.0).sum() / ratio[mine].sum()
        assert entry["clipped_mass"] == pytest.approx(above, rel=1e-9, abs=1e-12)
        error = every_error[fakes.labels == entry["label"]]
        assert errors["by_label"][place]["q0.5"] == pytest.approx(np.median(error), rel=1e-9)
        assert errors["by_label"][place]["mean"] == pytest.approx(error.mean(), rel=1e-9)
    assert found["candidate_ratio"]["mean"] == pytest.approx(ratio.mean(), rel=1e-9)
    assert found["candidate_ratio"]["spread"] == pytest.approx(ratio.std() / ratio.mean(), rel=1e-6)
    np.testing.assert_allclose(found["candidate_ratio"]["percentiles"], np.percentile(ratio, range(101)), rtol=1e-4)


def test_rows_go_to_their_labels(many: FakeDataset, turned: FakeDataset) -> None:
    for fakes in (many, turned):
        assert np.array_equal(fakes.manifest.labels[label_of_rows(fakes)], fakes.labels)
        groups = rows_by_label(fakes)
        assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(len(fakes)))
        assert all(
            (fakes.labels[rows] == label).all() for rows, label in zip(groups, fakes.manifest.labels, strict=True)
        )
        np.testing.assert_array_equal(fakes.errors(), fakes.scores().error)


def test_vector_labels_are_found_by_all_their_coordinates() -> None:
    planned = np.array([[1.0, 2.0], [0.0, 5.0], [1.0, -2.0]])
    owner = np.array([2, 0, 0, 1, 2])
    few: Any = SimpleNamespace(manifest=SimpleNamespace(labels=planned), labels=planned[owner])
    assert label_of_rows(few).tolist() == owner.tolist()
    assert [rows.tolist() for rows in rows_by_label(few)] == [[1, 2], [3], [0, 4]]


def test_a_label_of_copies_is_found_in_the_stored_images(many: FakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(entry["near_identical_share"] == 0 for entry in label_variety(many)["by_label"])
    fakes, read = open_fakes(many.path), []
    true_images = fakes.images

    def copies(rows: np.ndarray) -> np.ndarray:
        read.append(len(rows))
        pixels = true_images(rows)
        return np.repeat(pixels[:1], len(rows), axis=0) if fakes.labels[rows[0]] == 5 else pixels

    monkeypatch.setattr(fakes, "images", copies)
    found = label_variety(fakes)
    (worst,) = [entry for entry in found["by_label"] if entry["near_identical_share"] > 0]
    assert worst == {"label": 5, "images": 12, "mean_distance": pytest.approx(0.0, abs=1e-5), "near_identical_share": 1}
    assert sum(read) <= 40 * 32


def test_many_labels_stay_readable(many: FakeDataset, tmp_path: Path) -> None:
    known = calibration_of(many.path, [])
    text = describe_text({"fakes": str(many.path), **known.to_json()})
    lines = text.splitlines()
    table = lines[next(index for index, line in enumerate(lines) if line.startswith("label")) :]
    assert len([line for line in table if "kind " in line and "warning" not in line and "note" not in line]) == 15
    assert "the worst 15 of 40 labels" in text
    assert len(lines) < 45
    shown = label_table(known.to_json())
    assert shown is not None
    assert len(shown.rows) == 20
    worst = min(known.described["by_label"], key=lambda entry: entry["acceptance_rate"])
    assert MANY.names[worst["label"]] in [row[0] for row in shown.rows]
    drawn = plots_of(known, rho=0.5)
    assert set(drawn) == {"density_ratio", "acceptance", "clipped_mass", "errors"}
    errors = drawn["errors"]
    assert len(errors.groups) == len(errors.cuts) == 21
    assert len(errors.groups["all 40 labels"]) == len(many)
    for name, part in drawn.items():
        width, height = size_of(write_png(part, tmp_path / "deep" / f"{name}.png"))
        assert 600 < width < 1200
        assert 200 < height < 1400
    first = (tmp_path / "deep" / "errors.png").read_bytes()
    assert write_png(errors, tmp_path / "again.png").read_bytes() == first


def test_ranked_plots_of_few_and_of_a_thousand_labels(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 30, 1000):
        part = Ranked("t", "accepted, %", {f"$\\frac{{<{i}>": i / count for i in range(count)}, "", 100, {"all": 0.5})
        sizes.append(size_of(write_png(part, tmp_path / f"{count}.png")))
        assert "<script" not in render(ReportData(ranked=[part]))
    assert sizes[2][1] < sizes[1][1] < 1300
    page = render(ReportData(ranked=[part]))
    assert page.count("<text") < 40  # the lowest and the highest are named, not a thousand
    assert len(page) < 120_000
    assert "1000 labels, from the lowest to the highest" in page


def test_continuous_labels_are_drawn_in_ranges(turned: FakeDataset) -> None:
    known = calibration_of(turned.path, [])
    errors = plots_of(known)["errors"]
    assert len(errors.groups) == 8
    assert next(iter(errors.groups)).startswith("-80 degrees to ")
    assert sum(len(values) for values in errors.groups.values()) == len(turned)
    assert "degrees" in describe_text({"fakes": "x", **known.to_json()})


def test_without_filter_and_predictor(bare: FakeDataset) -> None:
    known = calibration_of(bare.path, [])
    assert known.described["candidate_ratio"] is None
    assert known.expected_on_reals is None
    assert all(entry["mean_ratio"] is None for entry in known.described["by_label"])
    assert [one.kind for one in known.warnings if one.kind != "collapsed"] == []
    assert plots_of(known) == {}
    assert label_table(known.to_json()) is None
    text = describe_text({"fakes": str(bare.path), **known.to_json()})
    assert "every candidate was accepted" in text
    assert "density ratio" not in text
    json.dumps(known.to_json(), allow_nan=False)
    digits = load_real("digits")
    parts = filter_parts(known, digits, None, 0.9)
    assert parts["acceptance"] is parts["density_ratio"] is parts["errors"] is None
    assert "What the filters did" in render(ReportData(**parts))  # the notes say what is missing


def test_the_filter_is_found_by_its_digest_and_another_is_refused(many: FakeDataset, tmp_path: Path) -> None:
    from runtime.errors import UserError

    folder = tmp_path / "w" / "filter" / "abc"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"kind": "density ratio"}))
    (folder / "weights.safetensors").write_bytes(b"x")
    assert calibration_of(many.path, [tmp_path / "w"]).card is None
    with pytest.raises(UserError, match="not the filter of the fakes"):
        calibration_of(many.path, [], folder)
    moved = tmp_path / "w" / "fakes" / "here"
    shutil.copytree(many.path, moved)
    assert any("--filter" in text for text in calibration_of(moved, [tmp_path / "w"]).missing)

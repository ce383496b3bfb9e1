"""The contract of every metric, and a new one that appears wherever metrics are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation.metrics as folder
from evaluation.filter_effect import filter_effects
from evaluation.metrics import METRICS, ImageSets, Metric, all_metrics
from evaluation.metrics.registry import PAIRWISE_IMAGES, cell
from evaluation.quality import image_quality, metric_guide, quality_table, refusals
from evaluation.report import ReportData, render
from evaluation.table import Column, Measured, table_text
from image_data.labels import ClassLabels
from image_data.sources import ArraySource

SPACE = ClassLabels(("a", "b"))


class Looker:
    """Feature network and judge in one: four means of quarters; the label by the brightness."""

    metric_name, feature_width = "FD-looker", 4
    protocol = {"feature_network_digest": "l"}
    card = {"digest": "j"}

    def features(self, images: Any) -> torch.Tensor:
        pixels = torch.as_tensor(np.asarray(images)).float()
        return torch.stack([pixels[..., y : y + 4, x : x + 4].mean((1, 2, 3)) for y in (0, 4) for x in (0, 4)], dim=1)

    def predictions(self, images: Any) -> torch.Tensor:
        bright = self.features(images).mean(dim=1) - 128
        return torch.stack([-bright, bright], dim=1)


def source(count: int, seed: int = 0) -> ArraySource:
    """Dark images of label a, bright ones of label b."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(seed).normal(64 + 128 * labels[:, None, None, None], 20, (count, 1, 8, 8))
    return ArraySource(pixels.clip(0, 255).astype(np.uint8), labels)


def quality(count: int, seed: int = 0, real: int = 60) -> dict[str, Any]:
    looker: Any = Looker()
    return image_quality(source(count, seed), source(real, 99), SPACE, looker, judge=looker)


@pytest.fixture
def toy() -> Iterator[str]:
    """A metric as a stranger would write it: one class under one decorator."""

    @METRICS.register("toy")
    class Toy(Metric):
        columns = {"toy_brightness": Column("brightness", "grey levels", better="higher")}
        explanation = "The mean grey level, as a toy."
        needs = frozenset()
        error_bar = "standard error over images"

        def smallest(self, feature_width: int) -> int:
            return 2

        def measure(self, sets: ImageSets) -> dict[str, Any]:
            grey = sets.fake.images(np.arange(len(sets.fake))).mean(axis=(1, 2, 3))
            return {"toy_brightness": {"value": float(grey.mean()), "standard_error": float(grey.std()) / len(grey)}}

    yield "toy"
    del METRICS._lines["toy"]


@pytest.mark.parametrize("name", [*METRICS, "toy"])
def test_contract(name: str, toy: str) -> None:
    """One metric on sets that are large enough, and on one that is too small."""
    metric, row = METRICS.get(name)(), quality(60)
    assert row["refused"] == {}
    json.dumps(row, allow_nan=False)
    assert metric.explanation.endswith(".")
    assert metric.needs <= {"features", "judge", "real"}
    assert metric.columns
    for key, column in metric.titled([row]).items():
        value = cell(row, key)
        assert isinstance(value, (float, Measured)), key
        assert column.name
        if metric.error_bar and column.better:
            assert isinstance(value, Measured)
            assert value.error is not None
    smallest = metric.smallest(Looker.feature_width)
    for short in range(max(1, smallest - 1), smallest + 1):
        assert (name in quality(short)["refused"]) == (short < smallest), (name, short)


def test_every_metric_is_a_file_with_columns_of_its_own(toy: str) -> None:
    keys = [key for metric in all_metrics().values() for key in metric.columns]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(quality(60))
    files = {path.stem for path in Path(folder.__file__).parent.glob("*.py")} - {"__init__", "registry"}
    assert set(all_metrics()) == files | {toy}  # a file a metric, each entered in the registry


def test_a_new_metric_stands_in_the_row_the_tables_the_report_and_the_verdict(toy: str) -> None:
    rows = {"teacher": quality(60), "accepted": quality(60, 1)}
    rows["accepted"]["toy_brightness"]["value"] += 50.0
    table = quality_table(rows)
    assert "brightness, grey levels" in table_text(table).splitlines()[0]
    page = render(ReportData(quality=table, metric_guide=metric_guide(rows)))
    assert "brightness<small>grey levels</small>" in page
    assert "The mean grey level, as a toy. ± is the standard error over images." in page
    (effect,) = filter_effects(rows)
    assert effect.verdict == "helps"
    assert "brightness" in effect.sentence
    del rows["teacher"]["toy_brightness"]  # an evaluation from before there was such a metric
    assert quality_table(rows).rows[0][-2] is None
    assert refusals(rows) == ["Brightness was not measured by this evaluation; evaluate again into a new --out."]
    (effect,) = filter_effects(rows)
    assert "brightness" not in effect.sentence


def test_what_is_refused_says_why() -> None:
    rows = {"few": quality(2)}
    assert set(rows["few"]["refused"]) == {"frechet_distance", "kernel_distance", "precision_recall"}
    assert rows["few"]["kernel_distance"] is None
    assert "precision" not in rows["few"]
    assert [reason.split(" ")[0] for reason in refusals(rows)] == ["A", "KID", "Precision"]
    assert all("2" in reason and "give more images" in reason for reason in refusals(rows))
    assert quality_table(rows).rows[0][1:3] == [None, None]


def test_relabelled_images_are_held_to_the_labels_that_were_asked_for() -> None:
    class Relabelled(ArraySource):
        def asked_labels(self, rows: np.ndarray) -> np.ndarray:
            return 1 - self.labels[rows]

    looker: Any = Looker()
    images = Relabelled(source(20).pixels, source(20).labels)
    for fake, agreement in ((source(20), 1.0), (images, 0.0)):
        row = image_quality(fake, source(20, 9), SPACE, looker, judge=looker)["label_agreement"]
        assert (row["value"], row["images"], row["judge_digest"]) == (agreement, 20, "j")
        assert "per_image" not in row


def test_large_sets_are_thinned_by_a_seeded_draw() -> None:
    looker: Any = Looker()
    large, small = source(PAIRWISE_IMAGES + 1), source(40)
    one, again, other = (ImageSets(large, small, SPACE, looker, seed=seed).pairwise_features for seed in (0, 0, 1))
    assert len(one[0]) == PAIRWISE_IMAGES
    np.testing.assert_array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])

"""docs/scale.md: its tables are the script's, and the cost model is the store's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scale
from benchmarks.cost_model import Networks, Worker, totals
from benchmarks.scale_inputs import multiply_adds_of_plan, read_inputs
from benchmarks.untrained import biggan, class_space
from filters.acceptance import Acceptance
from filters.teacher_error import classification_error
from image_data.fake import describe_fakes
from runtime.engines import LocalEngine
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.runs import load_run
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text()


def test_the_tables_of_the_document_are_those_of_the_script():
    inputs = read_inputs()
    assert len(scale.TABLES) >= 5
    for make in scale.TABLES:
        for part in make(inputs).split("\n\n"):
            assert part in DOCUMENT, make.__name__


def test_the_document_counts_the_multiply_adds_that_the_networks_have():
    found, stated = multiply_adds_of_plan(), read_inputs()["measured"]["multiply_adds"]
    assert found == stated
    assert 4.0e9 < found["resnet50_at_224"] < 4.2e9  # as published


class EvenRatio:
    """Uniform in [0, 1): half is accepted, whatever the image."""

    def __init__(self) -> None:
        self.card: dict = {}

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        return torch.rand(len(images))


class MeanPredictor:
    """Four logits from the mean."""

    def __init__(self) -> None:
        self.card: dict = {}

    def predictions(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 4) / 255.0


def test_bytes_on_disk_are_predicted_within_a_few_per_cent(tmp_path):
    teacher = biggan(class_space(4), 32, 3, 2, torch.device("cpu"))
    parts = SamplingParts(teacher, EvenRatio(), MeanPredictor(), Acceptance(), classification_error)
    settings = SamplerSettings(block_size=128, unit_candidates=128, pilot_candidates=128)
    sample(lambda: parts, LabelPlan.classes(class_space(4), 500), settings, tmp_path / "f", LocalEngine(1))
    plan, per_label = load_run(tmp_path / "f")
    found = describe_fakes(tmp_path / "f")
    rates = np.full(4, found["acceptance_rate"])
    totals_of_plan = totals(plan, per_label, rates, Networks(1, 1, 1), Worker("", 1, 1))
    real = sum(path.stat().st_size for path in (tmp_path / "f").rglob("*") if path.is_file())
    assert totals_of_plan.disk_bytes == pytest.approx(real, rel=0.05)
    assert totals_of_plan.rows == pytest.approx(found["accepted"], rel=0.05)
    assert totals_of_plan.candidates == pytest.approx(found["candidates"] + 4 * 128, rel=0.05)

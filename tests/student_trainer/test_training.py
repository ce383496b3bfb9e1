"""Training a student generator: exact resume, what is written, what is refused, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.torch_export import export_student
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real import load_real
from image_data.sources import ArraySource, ImageSource
from interfaces import Teacher, TeacherCard
from layers.discriminators import DISCRIMINATORS
from runtime.errors import UserError
from student_trainer import GENERATORS, StudentSettings, load_student, train_student
from training.generator_folder import NetworkGenerator, read_card, save_generator
from white_box.settings import WhiteBoxSettings

CPU = torch.device("cpu")
LATENT = 8
SPACE = ClassLabels(tuple("0123456789"))
SMALL = StudentSettings(
    GENERATORS.choose("tinygan", {
        "base_width": 4, "start_channels": 0, "start_hidden": 0, "embedding_dim": 4, "latent_conditions": "chunk",
    }),
    DISCRIMINATORS.choose("projection", {"width": 4, "slope": 0.2}),
    steps=12, batch_size=8, checkpoint_every_steps=5, checkpoint_every_seconds=1e9, log_every_steps=2,
    standing_batches=3, holdout_fraction=0.1, adversarial_from=0.0, feature_weight=1.0, adversarial_weight=0.1,
    discriminator_pair_weight=1.0, diffaugment=("color", "translation", "cutout"), pixel_floor=0.1,
)  # fmt: skip


class Pairs(ImageSource):
    """Real digits with made-up latents: enough to run every line."""

    def __init__(self, count: int = 60, labels: np.ndarray | None = None, latents: bool = True) -> None:
        real = load_real("digits").train
        self._pixels = np.ascontiguousarray(real.pixels[:count])
        self.labels = real.labels[:count].copy() if labels is None else labels
        self._latents = np.random.default_rng(0).standard_normal((count, LATENT)).astype(np.float32)
        self._has_latents = latents

    @property
    def has_latents(self) -> bool:
        return self._has_latents

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self._pixels[rows]

    def latents(self, rows: np.ndarray) -> np.ndarray | None:
        return self._latents[rows] if self._has_latents else None


def real_images() -> ArraySource:
    source = load_real("digits").train
    return ArraySource(source.pixels[500:540].copy(), source.labels[500:540].copy())


def local_teacher() -> NetworkGenerator:
    torch.manual_seed(5)
    network = GENERATORS.get("tinygan")(16, 1, LATENT, "classes", 10, base_width=8)
    card = TeacherCard(
        "tinygan", {}, 16, 1, SPACE.to_json(), {"distribution": "normal", "dimension": LATENT}, {}, "", "none", []
    )
    return NetworkGenerator(card, network, SPACE, CPU)


def train(out: Path, settings: StudentSettings = SMALL, white: bool = False, real: bool = True) -> Path:
    source = real_images() if real else None
    return train_student(
        Pairs(), source, SPACE, settings, out, CPU, *insides(white), ("translate",), {"name": "digits"}
    )


def insides(white: bool) -> tuple[Any, ...]:
    """Methods, and the teacher that they look into."""
    return (WhiteBoxSettings().methods(), local_teacher()) if white else ((), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed training."""
    return train(tmp_path_factory.mktemp("undisturbed") / "student")


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


class Stopped(Exception):
    """Raised by a source in place of a kill."""


class StoppingPairs(Pairs):
    """Stops the training when the batch of `step` is read."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step + 1 + 1  # one read belongs to the checks before the first step

    def images(self, rows: np.ndarray) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise Stopped
        return super().images(rows)


def test_a_finished_student_is_a_teacher(whole: Path) -> None:
    out = whole
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "stats.jsonl", "weights.safetensors"]
    student = load_student(out, CPU)
    assert isinstance(student, Teacher)
    keys = np.stack([np.arange(5), np.arange(5)], axis=1)
    latents = student.latents(keys, seed=3)
    assert latents.shape == (5, LATENT)
    images = student.generate(latents, np.arange(5), keys, 0)
    assert images.shape == (5, 1, 16, 16)
    assert float(images.abs().max()) <= 1.0
    card = student.card
    assert card.architecture == "tinygan"
    assert card.trained_on["name"] == "digits"
    assert card.trained_on["pairs"] == 54
    assert card.trained_on["real_images"] == 40
    assert card.allowed_augmentations == ["translate"]
    assert card.measured_quality["paired_images"] == 6
    assert 0 < card.measured_quality["paired_l1"] < 2
    assert card.measured_quality["paired_psnr_db"] > 0
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "discriminator", "feature", "pixel", "adversarial_pair", "adversarial_unpaired"} <= set(lines[-1])

    before = weights(out), os.stat(out / "weights.safetensors").st_mtime_ns
    train(out)
    assert (weights(out), os.stat(out / "weights.safetensors").st_mtime_ns) == before


@pytest.mark.parametrize(("stop_at", "white"), [(4, False), (11, False), (7, True)])
def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path, whole: Path, white: bool, stop_at: int) -> None:
    if white:
        whole = train(tmp_path / "whole", white=True)
    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        train_student(StoppingPairs(stop_at), real_images(), SPACE, SMALL, out, CPU, *insides(white), ("translate",))
    train_student(Pairs(), real_images(), SPACE, SMALL, out, CPU, *insides(white), ("translate",))
    assert weights(out) == weights(whole)
    assert (out / "stats.jsonl").read_text() == (whole / "stats.jsonl").read_text()


KILLED = """
import sys
from pathlib import Path
from tests.student_trainer.test_training import train
train(Path(sys.argv[1]))
"""


# In the middle of the second checkpoint; and between the weights and the card (the log's first write, one state.json
# for each checkpoint, the last step's too, and the weights are the five renamed files).
@pytest.mark.parametrize(
    "point", [pytest.param("checkpoint.before_commit:2", marks=pytest.mark.slow), "atomic.after_rename:5"]
)
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, whole: Path, point: str) -> None:
    out = tmp_path / "killed"
    environment = {**os.environ, "RETORT_FAILURE_POINT": point, "OMP_NUM_THREADS": "1", "RETORT_PROGRESS": "off"}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(out)], env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (out / "card.json").exists()
    train(out)
    assert weights(out) == weights(whole)
    assert not (out / "checkpoints").exists()


def test_the_white_box_changes_the_student(tmp_path: Path, whole: Path) -> None:
    white = train(tmp_path / "white", white=True)
    assert weights(whole) != weights(white)
    line = json.loads((white / "stats.jsonl").read_text().splitlines()[-1])
    assert "kernel_alignment[blocks.0 -> blocks.0]" in line


def test_without_real_images(tmp_path: Path) -> None:
    out = train(tmp_path / "student", real=False)
    assert read_card(out).trained_on["real_images"] == 0


def test_training_lowers_the_paired_distance(tmp_path: Path) -> None:
    settings = replace(SMALL, steps=60, adversarial_weight=0.0, adversarial_unpaired_weight=0.0, pixel_weight=1.0,
                       pixel_floor=1.0, feature_weight=0.0, lr=5e-3)  # fmt: skip
    train(tmp_path / "student", settings)
    lines = [json.loads(line) for line in (tmp_path / "student" / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.6 * lines[0]["pixel"]


class RelabelledPairs(Pairs):
    """As a filter leaves them: `labels` replaced, the labels asked of the teacher beside them."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = self.labels
        self.labels = (self.labels + 1) % 10

    def asked_labels(self, rows: np.ndarray) -> np.ndarray:
        return self._asked[rows]


def test_a_pair_keeps_the_label_that_was_asked_of_the_teacher(tmp_path: Path, whole: Path) -> None:
    out = train_student(
        RelabelledPairs(), real_images(), SPACE, SMALL, tmp_path / "student", CPU, (), None, ("translate",)
    )
    assert weights(out) == weights(whole)


def test_continuous_labels(tmp_path: Path) -> None:
    space = ContinuousLabels(0.0, 90.0, "degrees")
    pairs = Pairs(labels=np.linspace(0, 90, 60))
    out = train_student(pairs, None, space, replace(SMALL, steps=2), tmp_path / "student", CPU)
    assert load_student(out, CPU).generate(torch.zeros(2, LATENT), np.array([3.0, 88.5]), None, 0).shape == (
        2,
        1,
        16,
        16,
    )


def test_r1_and_rare_adversarial_steps(tmp_path: Path) -> None:
    settings = replace(
        SMALL, steps=12, r1_weight=0.1, r1_every=2, discriminator_every=2, adversarial_every=2, log_every_steps=2
    )
    train(tmp_path / "student", settings)
    lines = [json.loads(line) for line in (tmp_path / "student" / "stats.jsonl").read_text().splitlines()]
    assert ["adversarial_pair" in line for line in lines] == [False, True] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: train_student(Pairs(latents=False), None, SPACE, SMALL, out, CPU), "have no latents"),
        (lambda out: train_student(real_images(), None, SPACE, SMALL, out, CPU), "have no latents"),
        (
            lambda out: train_student(Pairs(labels=np.full(60, 10)), None, SPACE, SMALL, out, CPU),
            "the fakes: labels run from 10",
        ),
        (
            lambda out: train_student(
                Pairs(), ArraySource(np.zeros((4, 3, 16, 16), np.uint8), np.zeros(4, np.int64)), SPACE, SMALL, out, CPU
            ),
            "real images are",
        ),
        (
            lambda out: train_student(
                Pairs(), ArraySource(np.zeros((4, 1, 16, 16), np.uint8), np.full(4, 77)), SPACE, SMALL, out, CPU
            ),
            "real images: labels run",
        ),
        (lambda out: train_student(Pairs(count=1), None, SPACE, SMALL, out, CPU), "too few"),
        (lambda out: train(out, replace(SMALL, generator=GENERATORS.choose("none"))), "known are tinygan"),
    ],
)
def test_bad_input_is_refused_before_work(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": float("nan")}, {"pixel_weight": -1.0},
        {"lr_decay_from": 1.5}, {"diffaugment": ("sparkle",)}, {"truncation": 0.0}, {"holdout_fraction": -0.1},
        {"adversarial_from": 0.5, "feature_weight": 1.0, "pixel_weight": 0.0}, {"adversarial_from": 2.0},
        {"feature_weight": 0.0, "pixel_weight": 0.0, "adversarial_weight": 0.0, "adversarial_unpaired_weight": 0.0},
        {"discriminator_every": 2, "pixel_floor": 0.0}, {"discriminator_every": 0},
    ],
)  # fmt: skip
def test_bad_settings(bad: dict) -> None:
    with pytest.raises(UserError, match=r"train-student|diffaugment"):
        StudentSettings(**bad)


def test_divergence_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no longer a finite number at step 2"):
        train(tmp_path / "student", replace(SMALL, feature_weight=1e38, lr=1e9, warmup_fraction=0.0))


def test_a_card_that_is_no_students(tmp_path: Path) -> None:
    out = train(tmp_path / "student", replace(SMALL, steps=1))
    student = load_student(out, CPU)
    other = tmp_path / "other"
    save_generator(other, replace(student.card, architecture="biggan"), student.network)
    with pytest.raises(UserError, match="'biggan' is unknown; known are tinygan"):
        load_student(other, CPU)
    save_generator(other, replace(student.card, arguments={"size": 3}), student.network)
    with pytest.raises(UserError, match="does not fit the network"):
        load_student(other, CPU)
    with pytest.raises(UserError, match=r"holds no card\.json"):
        load_student(tmp_path / "nowhere", CPU)


def test_the_exported_program_equals_the_student(tmp_path: Path) -> None:
    student = load_student(train(tmp_path / "student", replace(SMALL, steps=1)), CPU)
    found = export_student(student, tmp_path / "deep" / "student.pt2")
    assert found.largest_difference <= 1e-4
    assert [path.name for path in found.path.parent.iterdir()] == ["student.pt2"]
    program = torch.export.load(found.path).module()
    for count in (1, 3, 40):
        latents, labels = torch.randn(count, LATENT), torch.arange(count) % 10
        assert torch.allclose(program(latents, labels), student.network(latents, labels), atol=1e-5)
    with pytest.raises(UserError, match="already there"):
        export_student(student, found.path)
    with pytest.raises(UserError, match=r"must end in \.pt2"):
        export_student(student, tmp_path / "student.onnx")


def test_an_exported_student_of_continuous_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = ContinuousLabels(0.0, 90.0, "degrees")
    network = GENERATORS.get("tinygan")(16, 1, LATENT, "continuous", 1, base_width=4)
    card = TeacherCard("tinygan", {}, 16, 1, space.to_json(), {"distribution": "normal", "dimension": LATENT}, {}, "",
                       "none", [])  # fmt: skip
    found = export_student(NetworkGenerator(card, network, space, CPU), tmp_path / "student.pt2")
    assert torch.export.load(found.path).module()(torch.zeros(4, LATENT), torch.zeros(4, 1)).shape == (4, 1, 16, 16)


class Unexportable(torch.nn.Module):
    """Branches on values, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        return latents if float(latents.sum()) > 0 else -latents


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    teacher = local_teacher()
    broken = NetworkGenerator(teacher.card, Unexportable(), SPACE, CPU)
    with pytest.raises(UserError, match="cannot be exported by torch"):
        export_student(broken, tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []

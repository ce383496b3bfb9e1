"""Training of teachers: batches, exact resume, what is refused, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real import load_real
from image_data.sources import ArraySource
from layers.discriminators import DISCRIMINATORS
from runtime.digests import file_sha256
from runtime.errors import UserError
from teacher_sampler import TEACHERS, load_teacher
from teacher_sampler.training import TeacherSettings, train_teacher, trainer
from teacher_sampler.training.batches import BalancedClasses, Vicinity, batch_drawer
from teacher_sampler.training.stats import collapse_warning, spread_within_labels
from training.stats_log import StatsLog

CPU = torch.device("cpu")
TINY = TeacherSettings(
    TEACHERS.choose("biggan", {"width": 2, "latent_dim": 9, "label_dim": 4}),
    DISCRIMINATORS.choose("projection", {"width": 2}), steps=6, batch_size=20, discriminator_steps=2,
    standing_batches=3, diffaugment=("translation", "cutout"), log_every_steps=2, checkpoint_every_steps=2,
)  # fmt: skip


def train(out: Path, name: str = "digits", **changes: object) -> Path:
    data = load_real(name)
    settings = dataclasses.replace(TINY, **changes)
    return train_teacher(data.train, data.label_space, settings, out, CPU, data.allowed_augmentations, {"name": name})


def test_reduced_precision_changes_the_passes_and_nothing_else(tmp_path):
    found = {name: load_teacher(train(tmp_path / name, precision=name), CPU) for name in ("float32", "bfloat16")}
    weights = [dict(found[name].network.named_parameters()) for name in ("float32", "bfloat16")]
    assert {value.dtype for value in weights[1].values()} == {torch.float32}
    moved = [float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]]
    assert 0 < max(moved) < 6 * 5 * TINY.lr  # six Adam steps of nearly the same directions


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits", {}),
        ("digits", {"r1_weight": 0.1, "diffaugment": (), "lr_decay_from": 0.5}),
        ("rotated-digits", {"vicinity": "hard"}),
        ("digits", {"precision": "bfloat16"}),
    ],
)
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, monkeypatch, name, changes):
    whole = train(tmp_path / "whole", name, **changes)
    update = trainer._Run.update_generator

    def dying(self, number):
        if number == 5:
            raise Killed
        return update(self, number)

    monkeypatch.setattr(trainer._Run, "update_generator", dying)
    with pytest.raises(Killed):
        train(tmp_path / "stopped", name, **changes)
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / "card.json").exists()
    stopped = train(tmp_path / "stopped", name, **changes)
    assert (stopped / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert (stopped / "card.json").read_text() == (whole / "card.json").read_text()
    assert (stopped / "stats.jsonl").read_text() == (whole / "stats.jsonl").read_text()
    assert not (stopped / "checkpoints").exists()
    assert load_teacher(stopped, CPU).card.source_digest == file_sha256(stopped / "weights.safetensors")


CHILD = """
import sys
from pathlib import Path
from tests.teacher_sampler.test_training import train
train(Path(sys.argv[1]), steps=40)
"""


def test_kill_minus_nine_changes_nothing(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "RETORT_PROGRESS": "off", "PYTHONPATH": str(root)}
    out = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], cwd=root, env=environment)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step_*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "card.json").exists()
    train(out, steps=40)
    whole = train(tmp_path / "whole", steps=40)
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_a_finished_folder_is_returned_at_once(tmp_path):
    out = train(tmp_path / "teacher", steps=2)
    before = (out / "card.json").stat().st_mtime_ns
    assert train(out, steps=2) == out
    assert (out / "card.json").stat().st_mtime_ns == before


def test_the_log_and_the_card_tell_what_happened(tmp_path):
    out = train(tmp_path / "teacher")
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss_d", "loss_g", "real_logit", "fake_logit", "fake_spread", "real_spread"} <= set(lines[0])
    card = load_teacher(out, CPU).card
    assert card.trained_on["images"] == 1000
    assert card.trained_on["images_seen"] == 6 * 2 * 20
    assert card.latent == {"distribution": "normal", "dimension": 9}


def test_another_seed_gives_another_teacher(tmp_path):
    one, two = train(tmp_path / "one", steps=1), train(tmp_path / "two", steps=1, seed=1)
    assert file_sha256(one / "weights.safetensors") != file_sha256(two / "weights.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffaugment": ("flip",)}, "flip is not allowed"),
        ({"diffaugment": ("twirl",)}, "twirl"),
        ({"steps": -1}, "steps is -1"),
        ({"vicinity": "round"}, "round"),
        ({"lr_decay_from": 1.5}, "lr_decay_from"),
        ({"generator": TEACHERS.choose("biggan", {"attention_px": 12})}, "attention at 12"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "teacher", **changes)
    assert not (tmp_path / "teacher" / "card.json").exists()


def test_auto_augments_small_training_sets_only():
    assert TeacherSettings().policy(100) == ("translation",)
    assert TeacherSettings().policy(1000) == ()
    assert TeacherSettings(diffaugment=("cutout",)).policy(1000) == ("cutout",)
    assert TeacherSettings(diffaugment=()).policy(100) == ()


def test_oblong_images_are_refused(tmp_path):
    source = ArraySource(np.zeros((4, 1, 16, 8), np.uint8), np.arange(4) % 2)
    with pytest.raises(UserError, match="square"):
        train_teacher(source, ClassLabels(("a", "b")), TINY, tmp_path / "t", CPU, (), {})


def test_divergence_is_named(tmp_path):
    with pytest.raises(UserError, match=r"loss_. is no longer a finite number at step 2; lower the learning rate"):
        train(tmp_path / "teacher", lr=1e30, lr_discriminator=1e30)


def test_class_batches_are_balanced_and_hold_the_right_images():
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    drawer = batch_drawer(labels, ClassLabels(("a", "b", "c")), 32, 0, "soft", 2.0)
    assert isinstance(drawer, BalancedClasses)
    batch = drawer.discriminator(3)
    assert np.bincount(batch.fake).min() >= 10
    assert np.array_equal(labels[batch.rows], batch.target)
    assert np.array_equal(drawer.discriminator(3).rows, batch.rows)
    assert not np.array_equal(drawer.discriminator(4).rows, batch.rows)
    assert np.bincount(drawer.generator(0)).min() >= 10


def test_a_class_without_images_is_named():
    with pytest.raises(UserError, match="class 1"):
        batch_drawer(np.array([0, 2]), ClassLabels(("a", "b", "c")), 4, 0, "soft", 2.0)


@pytest.mark.parametrize("soft", [True, False])
def test_vicinal_batches_follow_the_published_rules(soft):
    random = np.random.default_rng(0)
    angles = np.unique(random.uniform(-60, 60, 300).round(1))
    space = ContinuousLabels(-60.0, 60.0, "degrees")
    drawer = batch_drawer(angles, space, 200, 0, "soft" if soft else "hard", 2.0)
    assert isinstance(drawer, Vicinity)
    y = (angles + 60) / 120
    kappa = 2.0 * np.diff(np.sort(y)).max()
    assert drawer.sigma[0] == pytest.approx(1.06 * y.std() * len(y) ** -0.2, rel=1e-5)
    assert drawer.kappa == pytest.approx(kappa, rel=1e-4)
    reach = kappa * (2.6283 if soft else 1.0)
    batch = drawer.discriminator(7)
    for label in (batch.target, batch.fake):
        assert label.shape == (200, 1)
        assert label.dtype == np.float32
        assert label.min() >= 0
        assert label.max() <= 1
    assert np.abs(y[batch.rows] - batch.target[:, 0]).max() <= reach + 1e-5
    assert np.abs(batch.fake - batch.target).max() <= reach + 1e-5
    if soft:
        expected = np.exp(-np.square(y[batch.rows] - batch.target[:, 0]) / kappa**2)
        np.testing.assert_allclose(batch.real_weights, expected, rtol=1e-3)
        assert batch.fake_weights.min() >= 0.99e-3
    else:
        assert batch.real_weights is None


def test_vicinity_redraws_where_no_real_image_is_near():
    y = np.repeat([0.0, 1.0], 50)[:, None]
    drawer = Vicinity(y, 64, 0, soft=False, gaps=0.01)
    batch = drawer.discriminator(0)
    assert np.abs(y[batch.rows] - batch.target).max() <= 0.01 + 1e-6
    assert len(np.unique(y[batch.rows])) == 2


def test_one_value_only_is_refused():
    with pytest.raises(UserError, match="all training labels are equal"):
        Vicinity(np.full((5, 1), 0.5), 4, 0, soft=True, gaps=2.0)


def test_collapse_is_seen():
    random = torch.Generator().manual_seed(0)
    real = torch.rand(20, 1, 8, 8, generator=random)
    labels = torch.arange(20) % 5
    collapsed = torch.rand(5, 1, 8, 8, generator=random)[labels]
    spreads = [spread_within_labels(images, labels) for images in (collapsed, real)]
    assert "collapsed" in collapse_warning(*spreads)
    assert collapse_warning(spreads[1], spreads[1]) is None


def test_the_log_drops_lines_past_the_resumed_step(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    log = StatsLog(path, range(5, 9))
    log.write({"step": 6, "new": 1})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2},
        {"step": 4},
        {"step": 6, "new": 1},
    ]

"""Training: equal steps, exact resume (also after SIGKILL), augmentation, label kinds, the finished folder's uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import classifiers.trainer
from classifiers import STUDENTS, ClassifierSettings, load_classifier, train_classifier
from classifiers.leak_guard import refuse_seen_images, seen_line
from image_data.real import RealData, load_real
from image_data.seen import Seen, merge
from image_data.seen_names import GAN, PREDICTOR, RATIO
from image_data.sources import ArraySource, Concatenation
from runtime.errors import UserError
from training.methods import METHODS

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "network": STUDENTS.choose("vgg8", {"width": 0.0625}), "batch_size": 16, "warmup_fraction": 0.1
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits", real_per_class=10)


@pytest.fixture(scope="module")
def angles() -> RealData:
    return load_real("rotated-digits")


def train(data: RealData, out: Path, steps: int = 12, **more: Any) -> dict[str, Any]:
    extra = {name: more.pop(name) for name in ("teacher", "on_validation", "source_counts") if name in more}
    if "width" in more:
        more["network"] = STUDENTS.choose("vgg8", {"width": more.pop("width")})
    settings = ClassifierSettings(**{**QUICK, "steps": steps, **more})
    return train_classifier(
        data.train, data.val, data.label_space, settings, out, CPU, data.allowed_augmentations, **extra
    )


def same_weights(first: Path, second: Path) -> bool:
    return (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()


class Stop(Exception):
    pass


def stop_at(step: int) -> Any:
    def listen(done: int, score: float) -> None:
        if done == step:
            raise Stop

    return listen


@pytest.mark.parametrize("more", [{}, {"ema_half_life_images": 64.0, "selection": "best-validation"}])
def test_a_stopped_run_continues_to_the_same_weights(digits: RealData, tmp_path: Path, more: dict[str, Any]) -> None:
    more = {**more, "validate_every_steps": 4, "checkpoint_every_steps": 3}
    whole = train(digits, tmp_path / "whole", **more)
    with pytest.raises(Stop):
        train(digits, tmp_path / "cut", on_validation=stop_at(8), **more)
    assert not (tmp_path / "cut" / "card.json").exists()
    heard: list[int] = []
    again = train(digits, tmp_path / "cut", on_validation=lambda step, score: heard.append(step), **more)
    assert heard == [4, 8, 12]  # the score at 4 came before the checkpoint that the run continues from
    assert again == whole
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    logs = [(tmp_path / run / "stats.jsonl").read_text().splitlines() for run in ("cut", "whole")]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    assert steps[0] == steps[1]
    assert not (tmp_path / "cut" / "checkpoints").exists()


KILLED = """
import sys, torch
from pathlib import Path
from classifiers import STUDENTS, ClassifierSettings, train_classifier
from image_data.real import load_real
torch.set_num_threads(1)
d = load_real("digits", real_per_class=10)
quick = {"network": STUDENTS.choose("vgg8", {"width": 0.0625}), "batch_size": 16, "warmup_fraction": 0.1}
s = ClassifierSettings(**quick, steps=12, checkpoint_every_steps=5)
train_classifier(d.train, d.val, d.label_space, s, Path(sys.argv[1]), torch.device("cpu"), d.allowed_augmentations)
"""


def test_a_killed_run_continues_to_the_same_weights(digits: RealData, tmp_path: Path) -> None:
    environment = {**os.environ, "RETORT_FAILURE_POINT": "checkpoint.after_commit:2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "step_000000010").is_dir()
    train(digits, tmp_path / "killed", checkpoint_every_steps=5)
    train(digits, tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_folder_is_left_alone(digits: RealData, tmp_path: Path) -> None:
    first = train(digits, tmp_path / "done", steps=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()}
    assert train(digits, tmp_path / "done", steps=3) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()} == before


def test_every_source_trains_for_the_same_number_of_steps(digits: RealData, tmp_path: Path) -> None:
    """Few images, many images, several sources: equal optimiser steps and equal images seen."""
    calls: list[int] = []

    class Counting(ArraySource):
        def images(self, rows: np.ndarray) -> np.ndarray:
            calls.append(len(rows))
            return super().images(rows)

    few = Counting(digits.train.pixels, digits.train.labels)
    many = Concatenation([few, Counting(np.tile(digits.val.pixels, (4, 1, 1, 1)), np.tile(digits.val.labels, 4))])
    settings = ClassifierSettings(**QUICK, steps=5)
    results = []
    for name, source in (("few", few), ("many", many)):
        calls.clear()
        found = train_classifier(source, None, digits.label_space, settings, tmp_path / name, CPU, ())
        results.append((found["steps"], found["images_seen"], sum(calls)))
    assert results == [(5, 80, 81), (5, 80, 81)]  # one more image each: the look at the shape


def test_source_counts_are_noted(digits: RealData, tmp_path: Path) -> None:
    result = train(digits, tmp_path / "c", steps=2, source_counts={"real": 60, "fake": 40})
    assert result["source_counts"] == {"real": 60, "fake": 40}
    with pytest.raises(ValueError, match="do not add up"):
        train(digits, tmp_path / "d", steps=2, source_counts={"real": 60})


def test_digits_are_shifted_and_never_mirrored(
    digits: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    original = classifiers.trainer.augment

    def spy(images: torch.Tensor, names: Any, generator: torch.Generator, **more: Any) -> torch.Tensor:
        seen.append(tuple(names))
        return original(images, names, generator, **more)

    monkeypatch.setattr(classifiers.trainer, "augment", spy)
    train(digits, tmp_path / "default", steps=2)
    train(digits, tmp_path / "off", steps=2, augmentation=())
    assert seen == [("translate",), ("translate",), (), ()]
    with pytest.raises(UserError, match="flip is not allowed"):
        train(digits, tmp_path / "flip", steps=2, augmentation=("flip",))


def test_classes_are_learnt_and_the_folder_predicts(digits: RealData, tmp_path: Path) -> None:
    result = train(digits, tmp_path / "c", steps=60, width=0.125, lr=0.05)
    assert result["val_metric"] == "error"
    assert result["val_score"] < 0.5
    predictor = load_classifier(tmp_path / "c", CPU)
    logits = predictor(torch.from_numpy(digits.val.pixels.copy()))
    assert logits.shape == (300, 10)
    assert logits.dtype == torch.float32
    error = (logits.argmax(1).numpy() != digits.val.labels).mean()
    assert error == pytest.approx(result["val_score"])
    blocks = [predictor(torch.from_numpy(digits.val.pixels[rows])) for rows in np.split(np.arange(300), 6)]
    torch.testing.assert_close(torch.cat(blocks), logits, rtol=1e-4, atol=1e-4)
    assert predictor.card["source_digest"]
    assert not predictor.network.training


def test_angles_are_learnt_in_degrees(angles: RealData, tmp_path: Path) -> None:
    result = train(angles, tmp_path / "r", steps=60, width=0.125, batch_size=32)
    spread = np.abs(angles.val.labels - np.median(angles.val.labels)).mean()
    assert result["val_metric"] == "mae"
    assert result["val_score"] < 0.7 * spread
    predictor = load_classifier(tmp_path / "r", CPU)
    predicted = predictor.predictions(torch.from_numpy(angles.val.pixels.copy()))
    assert predicted.shape == (len(angles.val), 1)
    assert np.abs(predicted[:, 0].numpy() - angles.val.labels).mean() == pytest.approx(result["val_score"], rel=1e-4)
    space = angles.label_space
    assert space.low <= predicted.min() <= predicted.max() <= space.high  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["digits", "angles"])
def test_a_trained_folder_serves_as_teacher(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    data: RealData = request.getfixturevalue(kind)
    train(data, tmp_path / "teacher", steps=10)
    teacher = load_classifier(tmp_path / "teacher", CPU)
    train(data, tmp_path / "student", steps=6, method=METHODS.choose("blkd"), teacher=teacher)
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    assert card["teacher"] == teacher.card["source_digest"]
    line = json.loads((tmp_path / "student" / "stats.jsonl").read_text().splitlines()[0])
    assert line["soft"] > 0
    assert line["loss"] == pytest.approx(0.1 * line["hard"] + 0.9 * line["soft"], rel=1e-5)


def test_the_teacher_sees_the_augmented_view(digits: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views: list[torch.Tensor] = []
    shown: list[torch.Tensor] = []
    original = classifiers.trainer.augment

    def spy(images: torch.Tensor, names: Any, generator: torch.Generator, **more: Any) -> torch.Tensor:
        views.append(original(images, names, generator, **more))
        return views[-1]

    class Teacher:
        card: dict[str, Any] = {}

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            shown.append(images.clone())
            return torch.zeros(len(images), 10)

    monkeypatch.setattr(classifiers.trainer, "augment", spy)
    train(digits, tmp_path / "s", steps=2, method=METHODS.choose("blkd"), teacher=Teacher())
    assert all(torch.equal(view, image) for view, image in zip(views, shown[1:], strict=True))


def test_fine_tuning_starts_from_the_given_weights(digits: RealData, tmp_path: Path) -> None:
    train(digits, tmp_path / "nokd", steps=10)
    result = train(digits, tmp_path / "tuned", steps=1, lr=1e-9, init_from=str(tmp_path / "nokd"))
    assert result["steps"] == 1
    before, after = (load_file(tmp_path / name / "weights.safetensors") for name in ("nokd", "tuned"))
    torch.testing.assert_close(after["head.weight"], before["head.weight"])
    with pytest.raises(UserError, match="take one that fits"):
        train(digits, tmp_path / "other", steps=1, width=0.125, init_from=str(tmp_path / "nokd"))


def test_bad_inputs_are_refused_before_work(digits: RealData, angles: RealData, tmp_path: Path) -> None:
    out = tmp_path / "none"
    with pytest.raises(UserError, match="method blkd requires logits: it needs a teacher"):
        train(digits, out, method=METHODS.choose("blkd"))
    empty = digits.train.subset(np.array([], dtype=np.int64))
    wrong = ArraySource(digits.train.pixels, digits.train.labels + 5)
    plain, choosing = ClassifierSettings(), ClassifierSettings(selection="best-validation")
    for source, settings, message in (
        (empty, plain, "no training images"),
        (digits.train, choosing, "needs validation images"),
        (wrong, plain, "the training labels"),
    ):
        with pytest.raises(UserError, match=message):
            train_classifier(source, None, digits.label_space, settings, out, CPU, ())
    train(angles, tmp_path / "angles", steps=1)
    with pytest.raises(UserError, match="the teacher gives 1 outputs"):
        train(digits, out, method=METHODS.choose("blkd"), teacher=load_classifier(tmp_path / "angles", CPU))
    assert not out.exists()


def test_all_faulty_settings_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        ClassifierSettings(lr=-1.0, steps=0, selection="test")  # type: ignore[arg-type]
    for part in ("lr -1.0", "steps 0", "selection 'test' must be last or best-validation"):
        assert part in str(caught.value)


def test_learning_rates() -> None:
    cosine = ClassifierSettings(steps=100, lr=0.1, warmup_fraction=0.1)
    rates = [cosine.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001
    stepped = ClassifierSettings(steps=100, lr=0.1, schedule="milestones", milestones=(0.5, 0.8), warmup_fraction=0.0)
    assert [round(stepped.learning_rate(step), 6) for step in (0, 49, 50, 79, 80, 99)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]


def test_damaged_folders_are_named(digits: RealData, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(UserError, match=r"holds no card\.json"):
        load_classifier(folder, CPU)
    train(digits, folder, steps=1)
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="does not match the digest"):
        load_classifier(folder, CPU)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_classifier(folder, CPU)
    (folder / "card.json").write_text('{"kind": "teacher"}')
    with pytest.raises(UserError, match="not a classifier's card"):
        load_classifier(folder, CPU)


def test_leak_guard(digits: RealData) -> None:
    """Counts by part and role; only selection on validation images is what all parts may share."""
    parts = merge([digits.seen_by(GAN, val=False), digits.seen_by(PREDICTOR)])
    refuse_seen_images("digits", digits, parts)
    assert seen_line(digits, parts, "test") == "test images: 497, seen by none of GAN, predictor"
    foreign = merge([parts, Seen.nothing_known(RATIO, "imported")])
    assert seen_line(digits, foreign, "val").endswith(
        "trained on by none of GAN, predictor; unknown: density ratio (imported)"
    )
    assert seen_line(digits, Seen(), "test") == "test images: 497, no other part had a say"
    some = Seen.of(RATIO, train=digits.hashes("val")[:7], val=digits.hashes("test")[:3])
    with pytest.raises(
        UserError, match="density ratio fitted on 7 of 300 validation images; density ratio selected on 3 of 497 test"
    ):
        refuse_seen_images("digits", digits, merge([parts, some]))
    refuse_seen_images("digits", digits, Seen.of(RATIO, train=digits.hashes("test")), test=False)
    other = merge([load_real("digits", fold=1).seen_by(part) for part in (GAN, PREDICTOR)])
    with pytest.raises(
        UserError, match=r"GAN, predictor fitted on \d+ of 300 validation images and \d+ of 497 test images; GAN,"
    ):
        refuse_seen_images("digits", digits, other)

"""Classifiers under methods of all kinds: adapters, banks, stages, heads, rotations, and no copy to the host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.loop
from classifiers import STUDENTS, ClassifierSettings, load_classifier, train_classifier
from classifiers.predictor import ClassifierPredictor
from image_data.real import RealData, load_real
from runtime.errors import UserError
from tests.support.toy_methods import registered, toy_entries
from training.checkpoints import CheckpointFolder
from training.methods import METHODS

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "network": STUDENTS.choose("resnet8", {"width": 0.25}), "batch_size": 16, "steps": 8, "log_every_steps": 1,
}  # fmt: skip
STEPS = {"toy-bank": 8, "toy-factors": 12, "toy-head": 8, "toy-rotations": 10, "feature_l2": 8, "ab": 9, "ft": 9}
STEPS |= {"crd": 8, "simkd": 8}


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits", real_per_class=10)


@pytest.fixture(scope="module")
def teacher(digits: RealData, tmp_path_factory: pytest.TempPathFactory) -> ClassifierPredictor:
    folder = tmp_path_factory.mktemp("teacher") / "t"
    train(digits, folder, network=STUDENTS.choose("resnet8", {"width": 0.5}), steps=30)
    return load_classifier(folder, CPU)


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with ExitStack() as stack:
        for name, (registry, entry) in toy_entries().items():
            stack.enter_context(registered(registry, name, entry))
        yield


def train(data: RealData, out: Path, teacher: Any = None, **more: Any) -> dict[str, Any]:
    listen = more.pop("on_validation", None)
    settings = ClassifierSettings(**{**QUICK, **more})
    allowed = data.allowed_augmentations
    return train_classifier(
        data.train, data.val, data.label_space, settings, out, CPU, allowed, teacher, on_validation=listen
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in found]


class Stop(Exception):
    pass


def stop(step: int, score: float) -> None:
    raise Stop


@pytest.mark.parametrize("name", list(STEPS))
def test_a_method_trains_and_a_stopped_one_ends_with_the_same_weights(
    name: str, digits: RealData, teacher: ClassifierPredictor, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(digits, whole, teacher, method=METHODS.choose(name))
    losses = [line for line in lines(whole) if "loss" in line]
    assert len(losses) == STEPS[name]
    assert result["images_seen"] == 16 * STEPS[name]
    assert all(np.isfinite(line["loss"]) for line in losses)

    cut: dict[str, Any] = {"validate_every_steps": 5, "checkpoint_every_steps": 3}
    with pytest.raises(Stop):
        train(digits, stopped, teacher, method=METHODS.choose(name), on_validation=stop, **cut)
    kept = CheckpointFolder(stopped / "checkpoints").load_latest()
    assert kept is not None
    assert kept.step == 3
    held = [entry for entry in kept.tensors if entry.startswith("method.")]
    assert bool(held) == (name not in ("toy-head", "simkd"))
    train(digits, stopped, teacher, method=METHODS.choose(name), **cut)
    assert (stopped / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert losses == [line for line in lines(stopped) if "loss" in line]


def test_the_student_waits_while_adapters_learn(digits: RealData, teacher: ClassifierPredictor, tmp_path: Path) -> None:
    states: list[dict[str, torch.Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        save = CheckpointFolder.save

        def spy(folder: Any, step: int, tensors: dict[str, torch.Tensor], scalars: Any) -> None:
            states.append({name: value.clone() for name, value in tensors.items()})
            save(folder, step, tensors, scalars)

        patch.setattr(CheckpointFolder, "save", spy)
        train(digits, tmp_path / "s", teacher, method=METHODS.choose("toy-factors"), checkpoint_every_steps=1)
    moved = [
        {
            name
            for name in before
            if name.startswith(("network.", "method.")) and not torch.equal(before[name], after[name])
        }
        for before, after in pairwise(states)
    ]
    first, second = moved[1], moved[6]
    assert first == {f"method.parts.0.{part}.{kind}" for part in ("encoder", "decoder") for kind in ("weight", "bias")}
    assert any(name.startswith("network.") for name in second)
    assert not any("encoder" in name or "decoder" in name for name in second)
    rates = [line["lr"] for line in lines(tmp_path / "s") if "loss" in line]
    assert len(rates) == 12
    assert max(rates[:4]) == pytest.approx(max(rates[4:]) / 2, rel=0.2)


def test_a_replaced_head_is_saved_with_the_student(
    digits: RealData, teacher: ClassifierPredictor, tmp_path: Path
) -> None:
    result = train(digits, tmp_path / "s", teacher, method=METHODS.choose("toy-head"))
    student = load_classifier(tmp_path / "s", CPU)
    assert student.card["head"]["name"] == "toy-projector"
    logits = student(torch.from_numpy(digits.val.pixels.copy()))
    assert (logits.argmax(1).numpy() != digits.val.labels).mean() == pytest.approx(result["val_score"])
    assert torch.equal(student.network.head.linear.weight, teacher.network.head.weight)


def test_features_at_named_stages(digits: RealData, teacher: ClassifierPredictor, tmp_path: Path) -> None:
    weights = {"pairs": ("stage1:stage1", "stage3:stage2"), "resize_maps": True, "weight": 0.5}
    train(digits, tmp_path / "s", teacher, method=METHODS.choose("feature_l2", weights))
    line = lines(tmp_path / "s")[0]
    assert line["loss"] == pytest.approx(
        line["hard"] + line["feature_l2[stage1 -> stage1]"] + line["feature_l2[stage3 -> stage2]"], rel=1e-5
    )
    for pairs, message in (
        (("stage9:stage1",), "the teacher has no feature 'stage9' to read; it has stem, stage1"),
        (("stage1:nowhere",), "the student has no feature 'nowhere'"),
        (("pooled:stage1",), "no N x C x H x W map"),
    ):
        with pytest.raises(UserError, match=message):
            train(digits, tmp_path / "t", teacher, method=METHODS.choose("feature_l2", {"pairs": pairs}))
    assert not (tmp_path / "t").exists()


def test_a_predictor_without_insides_is_refused_before_training(digits: RealData, tmp_path: Path) -> None:
    class Program:
        card: dict[str, Any] = {}

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 10)

    out = tmp_path / "s"
    with pytest.raises(
        UserError, match="method feature_l2 requires features: this predictor is a program without insides"
    ):
        train(digits, out, Program(), method=METHODS.choose("feature_l2"))
    with pytest.raises(UserError, match="method feature_l2 requires features: it needs a teacher; give --predictor"):
        train(digits, out, method=METHODS.choose("feature_l2"))
    assert not out.exists()
    train(digits, out, Program(), method=METHODS.choose("blkd"), steps=1)


class Elsewhere:
    """A device whose tensors cannot be read from the host: torch's meta device refuses every copy out of it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.device = torch.device("meta")
        sgd = torch.optim.SGD
        patch.setattr(torch.optim, "SGD", lambda parameters, **more: sgd(parameters, **{**more, "fused": False}))
        self.read: list[torch.Size] = []

        def numbers(scalars: dict[str, torch.Tensor]) -> dict[str, float]:
            self.read += [value.shape for value in scalars.values()]
            return dict.fromkeys(scalars, 0.0)

        patch.setattr(training.loop, "_numbers", numbers)  # the log may read scalars

    def teacher(self, teacher: ClassifierPredictor) -> ClassifierPredictor:
        return ClassifierPredictor(teacher.card, teacher.network.to("meta"), teacher.label_space, self.device)


@pytest.mark.parametrize(
    ("data", "name"), [("digits", "blkd"), ("rotated-digits", "blkd"), ("digits", "toy-rotations")]
)
def test_the_loop_copies_no_image_or_output_to_the_host(
    data: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = load_real(data, real_per_class=10) if data == "digits" else load_real(data)
    train(real, tmp_path / "t", steps=1)
    there = Elsewhere(monkeypatch)
    teacher = there.teacher(load_classifier(tmp_path / "t", CPU))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        teacher.predictions(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))  # the store's edge does copy
    settings = ClassifierSettings(**{**QUICK, "steps": 4, "method": METHODS.choose(name)}, checkpoint_every_steps=100)
    saved: list[int] = []
    monkeypatch.setattr(CheckpointFolder, "save", lambda folder, step, *state: saved.append(step))
    monkeypatch.setattr("training.model_folder.ModelFolder.write", lambda *given: saved.append(-1))
    allowed = real.allowed_augmentations
    with pytest.raises(UserError, match="holds no card"):  # nothing can be written of such tensors
        train_classifier(real.train, None, real.label_space, settings, tmp_path / "s", there.device, allowed, teacher)
    assert saved[-1] == -1
    assert there.read
    assert set(there.read) == {torch.Size()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_profiler_sees_no_copy_to_the_host_but_of_scalars(digits: RealData, tmp_path: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    gpu = torch.device("cuda")
    train(digits, tmp_path / "t", steps=1)
    settings = ClassifierSettings(**{**QUICK, "steps": 50, "method": METHODS.choose("blkd"), "log_every_steps": 50})
    teacher = load_classifier(tmp_path / "t", gpu)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        train_classifier(digits.train, None, digits.label_space, settings, tmp_path / "s", gpu, (), teacher)
    copies = [event for event in seen.events() if "DtoH" in event.name]
    assert len(copies) < 50  # those of the one line of the log, and of the weights in the end

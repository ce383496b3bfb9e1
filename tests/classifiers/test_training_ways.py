"""Ways to train a classifier: batches of a fixed real share, epochs, fine-tuning, torch.compile, data on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from classifiers import STUDENTS, ClassifierSettings, check_training, load_classifier, train_classifier
from classifiers.predictor import ClassifierPredictor
from image_data import on_device
from image_data.batches import RatioOrder
from image_data.real import RealData, load_real
from image_data.sources import ArraySource, BatchRatio, ImageSource
from runtime.errors import UserError
from runtime.ranks import Ranks
from tests.conftest import Workspace
from training import compiling
from training.methods import METHODS

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "network": STUDENTS.choose("resnet8", {"width": 0.25}), "batch_size": 16, "steps": 8, "log_every_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits", real_per_class=10)


@pytest.fixture(scope="module")
def trained(digits: RealData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "t"
    train(digits, folder, network=STUDENTS.choose("resnet8", {"width": 0.5}), steps=20)
    return folder


@pytest.fixture
def teacher(trained: Path) -> ClassifierPredictor:
    return load_classifier(trained, CPU)


def train(data: RealData, out: Path, teacher: Any = None, source: ImageSource | None = None, **more: Any) -> Any:
    listen, settings = more.pop("on_validation", None), ClassifierSettings(**{**QUICK, **more})
    return train_classifier(
        source or data.train, data.val, data.label_space, settings, out, CPU, data.allowed_augmentations, teacher,
        on_validation=listen,
    )  # fmt: skip


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def stop(step: int, score: float) -> None:
    raise InterruptedError


def continues_to_the_same(data: RealData, folder: Path, teacher: Any = None, **more: Any) -> None:
    """A training that is stopped after 5 of its steps, 3 of them saved, and one that is not."""
    train(data, folder / "whole", teacher, **more)
    cut = {**more, "validate_every_steps": 5, "checkpoint_every_steps": 3}
    with pytest.raises(InterruptedError):
        train(data, folder / "stopped", teacher, on_validation=stop, **cut)
    train(data, folder / "stopped", teacher, **cut)
    assert weights(folder / "whole") == weights(folder / "stopped")


@pytest.mark.parametrize(("batch", "share"), [(16, 0.25), (10, 0.33), (4, 0.1)])
def test_every_batch_has_its_share_of_real_images(batch: int, share: float) -> None:
    order = RatioOrder(7, 50, share, batch, seed=3, purpose="try")
    rows = [order.rows(step) for step in range(40)]
    assert all(one.shape == (batch,) and one.dtype == np.int64 for one in rows)
    real = [int((one < 7).sum()) for one in rows]
    assert set(real) <= {int(share * batch), int(share * batch) + 1}
    assert sum(real) == int(40 * batch * share + 1e-9)
    shown = np.bincount(np.concatenate(rows), minlength=57)
    assert np.ptp(shown[:7]) <= 1  # each goes through epochs of its own
    assert np.ptp(shown[7:]) <= 1
    later = RatioOrder(7, 50, share, batch, seed=3, purpose="try")  # from any step on
    assert np.array_equal(later.rows(23), rows[23])
    assert np.array_equal(later.rows(4), rows[4])
    assert not np.array_equal(RatioOrder(7, 50, share, batch, seed=4, purpose="try").rows(0), rows[0])
    parts = [Ranks(number, 2).part(rows[9]) for number in (0, 1)]
    assert np.array_equal(np.concatenate(parts), rows[9])


def test_batches_of_a_fixed_share_train_and_continue(digits: RealData, tmp_path: Path) -> None:
    shown: list[np.ndarray] = []

    class Fakes(ArraySource):
        weights = np.linspace(0.5, 1.5, 300, dtype=np.float32)

        def images(self, rows: np.ndarray) -> np.ndarray:
            shown.append(rows)
            return super().images(rows)

    mixed = BatchRatio(digits.train, Fakes(digits.val.pixels, digits.val.labels), 0.25)
    assert mixed.weights is not None
    assert mixed.weights[:100].tolist() == [1.0] * 100
    continues_to_the_same(digits, tmp_path, source=mixed)
    assert {len(rows) for rows in shown} == {12}  # of 16


def test_epochs_make_the_steps(digits: RealData, tmp_path: Path) -> None:
    result = train(digits, tmp_path / "e", epochs=1.5)  # of 100 images in batches of 16
    assert (result["steps"], result["images_seen"]) == (10, 160)
    assert ClassifierSettings(epochs=240, batch_size=64).for_images(50_000).steps == 187_500
    assert ClassifierSettings(epochs=0.1, batch_size=10).for_images(100).steps == 1
    assert ClassifierSettings(steps=7).for_images(50_000).steps == 7
    train(digits, tmp_path / "s", steps=10)
    assert weights(tmp_path / "e") == weights(tmp_path / "s")


@pytest.mark.parametrize("name", ["none", "blkd", "sskd", "fitnet", "simkd"])
def test_fine_tuning_by_any_method(name: str, digits: RealData, teacher: ClassifierPredictor, tmp_path: Path) -> None:
    train(digits, tmp_path / "start", steps=3)
    start = {"init_from": str(tmp_path / "start"), "method": METHODS.choose(name)}
    train(digits, tmp_path / "tuned", teacher, **{**start, "lr": 1e-9, "weight_decay": 0.0, "steps": 1})
    before, after = (load_file(tmp_path / run / "weights.safetensors") for run in ("start", "tuned"))
    learnt = [name for name in before if name.startswith("backbone.") and name.endswith("weight")]
    assert learnt
    for tensor in learnt:
        torch.testing.assert_close(after[tensor], before[tensor])
    assert ("head.weight" in after) == (name != "simkd")
    card = json.loads((tmp_path / "tuned" / "card.json").read_text())
    assert card["initialised_from"] == load_classifier(tmp_path / "start", CPU).card["source_digest"]
    if name == "simkd":
        with pytest.raises(UserError, match="by the head of the method that trained it"):
            train(digits, tmp_path / "again", teacher, init_from=str(tmp_path / "tuned"))


def test_fine_tuning_has_a_lower_rate() -> None:
    start = ClassifierSettings(init_from="there")
    assert start.for_labels("classes").lr == 0.01
    assert ClassifierSettings(init_from="there", lr=0.2).for_labels("classes").lr == 0.2
    assert ClassifierSettings().for_labels("classes").lr == 0.05


def test_plain_momentum_is_another_training(digits: RealData, tmp_path: Path) -> None:
    for name, nesterov in (("plain", False), ("nesterov", True)):
        train(digits, tmp_path / name, steps=2, nesterov=nesterov)
    assert weights(tmp_path / "plain") != weights(tmp_path / "nesterov")


def test_images_on_the_device_are_the_same_images(digits: RealData, tmp_path: Path) -> None:
    train(digits, tmp_path / "read")
    train(digits, tmp_path / "held", data_on_device=True)
    for file in ("weights.safetensors", "card.json"):
        assert (tmp_path / "read" / file).read_bytes() == (tmp_path / "held" / file).read_bytes()


def test_images_that_do_not_fit_are_refused(digits: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "free_memory_bytes", lambda: 40_000)
    settings = ClassifierSettings(**QUICK, data_on_device=True)
    with pytest.raises(UserError, match="--data-on-device: the 100 training images take 0 MB, more than half"):
        check_training(digits.train, digits.val, digits.label_space, settings, ())
    monkeypatch.setattr(on_device, "free_memory_bytes", lambda: None)
    check_training(digits.train, digits.val, digits.label_space, settings, ())


@pytest.mark.parametrize("method", ["blkd", "fitnet"])
def test_a_compiled_training_continues(
    method: str, digits: RealData, teacher: ClassifierPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a compiler that changes nothing, so that the result must be the plain training's."""
    of_the_teacher = {id(module) for module in teacher.network.modules()}
    compiled: list[bool] = []

    def counted(forward: Any, dynamic: bool) -> Any:
        module = forward.__self__
        compiled.append(id(module) in of_the_teacher)

        def run(*inputs: torch.Tensor) -> Any:
            assert module.training != (id(module) in of_the_teacher)
            return forward(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", counted)
    continues_to_the_same(digits, tmp_path, teacher, method=METHODS.choose(method), compile=True)
    monkeypatch.undo()
    train(digits, tmp_path / "plain", teacher, method=METHODS.choose(method))
    assert weights(tmp_path / "plain") == weights(tmp_path / "whole")
    assert set(compiled) == {True, False}


def test_compiling_needs_a_compiler(digits: RealData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    settings = ClassifierSettings(**QUICK, compile=True)
    with pytest.raises(UserError, match=r"--compile needs a C\+\+ compiler on a CPU"):
        check_training(digits.train, digits.val, digits.label_space, settings, ())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of what it does itself
def test_fused_passes_train(digits: RealData, teacher: ClassifierPredictor, tmp_path: Path) -> None:
    """With this machine's compiler: nearly the plain training's first loss, and the same after a stop."""
    method = METHODS.choose("fitnet")
    train(digits, tmp_path / "plain", teacher, method=method)
    continues_to_the_same(digits, tmp_path, teacher, method=method, compile=True)
    losses = [
        json.loads((tmp_path / run / "stats.jsonl").read_text().splitlines()[0])["loss"] for run in ("plain", "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.xdist_group("workspace")
def test_the_flags_of_distill(workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """Lengths given twice and shares left out are one sentence; the protocol says how a result was trained."""
    for words, sentence in (
        ("--epochs 2", "--epochs and --steps both say how long to train; give one of them."),
        ("--mixing batch-ratio", "it needs the share of real images in each batch; give --real-share"),
    ):
        assert workspace.type("distill", words) == 2
        assert sentence in capsys.readouterr().err
    tiny = "--width 0.5 --network resnet8 --no-test"
    start = workspace.json(capsys, "distill", f"{tiny} --epochs 0.2 --train-on real --method none", tiny=False)
    assert start["protocol"]["epochs"] == 0.2
    assert start["protocol"]["steps"] == -(-start["protocol"]["images"] // 160)
    assert start["protocol"]["init_from"] is None
    more = f"{tiny} --steps 3 --mixing batch-ratio --real-share 0.5 --rho 0.5 --nfake-per-class 20 --data-on-device"
    first = workspace.json(capsys, "distill", more, tiny=False)
    tuned = workspace.json(capsys, "distill", f"{more} --init-from {start['classifier']}", tiny=False)
    assert first["classifier"] != tuned["classifier"]
    assert tuned["protocol"]["init_from"]
    assert (tuned["protocol"]["mixing"], tuned["protocol"]["real_share"]) == ("batch-ratio", 0.5)
    assert workspace.json(capsys, "distill", more.replace(" --data-on-device", ""), tiny=False) == first

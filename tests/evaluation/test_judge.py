"""The judge and Inception: training, exact resume, fixed blocks, refusals, parity with pytorch-fid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import training.checkpoints
from evaluation.inception import build_network, find_weights, load_inception
from evaluation.judge import Judge, JudgeSettings, load_judge, train_judge
from image_data.real import RealData, load_real
from image_data.sources import ArraySource, Concatenation
from runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits")


def train(data: RealData, out: Path, steps: int, **changes: int) -> Judge:
    settings = JudgeSettings(steps=steps, **changes)
    train_judge(
        data.train, data.label_space, out, CPU, 5, settings=settings, allowed_augmentations=data.allowed_augmentations
    )
    return load_judge(out, CPU)


def test_a_short_training_learns_and_writes_what_it_promises(digits: RealData, tmp_path: Path) -> None:
    judge = train(digits, tmp_path / "judge", 150)
    right = judge(digits.val.pixels).argmax(dim=1).numpy() == digits.val.labels
    assert right.mean() > 0.7
    names = {path.name for path in (tmp_path / "judge").iterdir()}
    assert names == {"card.json", "weights.safetensors", "stats.jsonl"}
    steps = [json.loads(line)["step"] for line in (tmp_path / "judge/stats.jsonl").read_text().splitlines()]
    assert steps == [50, 100, 150]
    before = (tmp_path / "judge/card.json").stat().st_mtime_ns
    train(digits, tmp_path / "judge", 150)
    assert (tmp_path / "judge/card.json").stat().st_mtime_ns == before


def test_features_do_not_depend_on_batch_or_order(digits: RealData, tmp_path: Path) -> None:
    judge = train(digits, tmp_path / "judge", 2)
    images = digits.val.pixels[:150]
    whole = judge.features(images)
    assert whole.shape == (150, 64)
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat([judge.features(images[:1]), judge.features(images[1:])]), whole)
    order = np.random.default_rng(0).permutation(150)
    torch.testing.assert_close(judge.features(torch.from_numpy(images[order])), whole[order], rtol=0, atol=0)
    assert judge(images[:0]).shape == (0, 10)


def test_a_killed_training_ends_with_equal_weights(
    digits: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(digits, tmp_path / "a", 12, checkpoint_every=5)
    save = training.checkpoints.CheckpointFolder.save

    def die_after_second(self: training.checkpoints.CheckpointFolder, step: int, *rest: object) -> None:
        save(self, step, *rest)
        if step == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.checkpoints.CheckpointFolder, "save", die_after_second)
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path / "b", 12, checkpoint_every=5)
    monkeypatch.undo()
    assert not (tmp_path / "b/card.json").exists()
    torch.manual_seed(123)
    resumed = train(digits, tmp_path / "b", 12, checkpoint_every=5)
    assert resumed.card["digest"] == undisturbed.card["digest"]
    assert (tmp_path / "a/stats.jsonl").read_text() == (tmp_path / "b/stats.jsonl").read_text()


def test_a_continuous_judge_answers_in_the_users_units(tmp_path: Path) -> None:
    data = load_real("rotated-digits")
    judge = train(data, tmp_path / "judge", 150)
    found = judge(data.val.pixels)
    assert found.shape == (len(data.val), 1)
    error = np.abs(found[:, 0].numpy() - data.val.labels).mean()
    assert error < 0.8 * np.abs(data.val.labels - data.val.labels.mean()).mean()


def test_bad_judges_are_refused_by_name(digits: RealData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        load_judge(tmp_path / "nowhere", CPU)
    judge = train(digits, tmp_path / "judge", 1)
    with pytest.raises(UserError, match="1 x 16 x 16, not 3 x 16 x 16"):
        judge.features(np.zeros((2, 3, 16, 16), np.uint8))
    with pytest.raises(TypeError, match="uint8"):
        judge.features(torch.zeros(2, 1, 16, 16))
    weights = tmp_path / "judge/weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(UserError, match="digest"):
        load_judge(tmp_path / "judge", CPU)
    empty = ArraySource(digits.val.pixels[:0], digits.val.labels[:0])
    with pytest.raises(UserError, match="no images"):
        train_judge(empty, digits.label_space, tmp_path / "other", CPU, 0)


@pytest.mark.slow
def test_the_default_judge_reads_the_digits_test_role(digits: RealData, tmp_path: Path) -> None:
    both = Concatenation([digits.train, digits.val])
    train_judge(both, digits.label_space, tmp_path, CPU, 1, allowed_augmentations=digits.allowed_augmentations)
    test = digits.open_test()
    assert (load_judge(tmp_path, CPU)(test.pixels).argmax(1).numpy() == test.labels).mean() > 0.98


def test_inception_equals_pytorch_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_fid.inception

    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(build_network().state_dict(), weights)
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **options: state)
    reference = pytorch_fid.inception.InceptionV3().eval()
    inception = load_inception(weights, rows=2)
    images = torch.randint(0, 256, (1, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want = reference((images.float() / 255.0).expand(-1, 3, -1, -1))[0].flatten(1)
    torch.testing.assert_close(inception.features(images), want, rtol=1e-4, atol=1e-5)
    assert inception.metric_name == "FD-inception"  # not FID: these are not the published weights
    assert inception.feature_width == 2048


def test_inception_is_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_weights() is None
    with pytest.raises(UserError, match="judge"):
        load_inception()
    with pytest.raises(UserError, match=r"missing\.pth"):
        load_inception(tmp_path / "missing.pth")
    wrong = tmp_path / "wrong.pth"
    torch.save({"x": torch.zeros(1)}, wrong)
    with pytest.raises(UserError, match=r"wrong\.pth does not hold"):
        load_inception(wrong)
    wrong.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"wrong\.pth does not hold"):
        load_inception(wrong)

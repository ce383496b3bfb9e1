"""What ranks share without meeting: the parts of a batch, the draws of a whole one, losses; and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_data.augment import augment
from image_data.real import load_real
from layers.diffaugment import POLICIES, diff_augment
from layers.gan_losses import hinge_discriminator, r1_penalty
from layers.label_losses import hard_loss, soft_loss, squared_loss
from runtime.errors import UserError
from runtime.precision import passes
from runtime.ranks import ALONE, Ranks, error_report, join_ranks, launched_ranks
from student_trainer.data import StudentData
from teacher_sampler.training.batches import batch_drawer
from tests.classifiers.test_training import train as train_light
from tests.student_trainer.test_training import SMALL, SPACE, Pairs, real_images
from tests.student_trainer.test_training import train as train_generator
from training.stats_log import StatsLog

CPU = torch.device("cpu")
THREE = [Ranks(number, 3) for number in range(3)]


def test_parts_make_the_whole() -> None:
    rows = np.arange(24).reshape(12, 2)
    assert np.array_equal(np.concatenate([ranks.part(rows) for ranks in THREE]), rows)
    columns = torch.arange(24).reshape(2, 12)
    assert torch.equal(torch.cat([ranks.part(columns, dim=1) for ranks in THREE], dim=1), columns)
    real, fake = torch.arange(6), torch.arange(100, 106)
    for ranks in THREE:
        mine = ranks.part(torch.cat([real, fake]), groups=2)
        assert torch.equal(mine, torch.cat([ranks.part(real), ranks.part(fake)]))
    assert ALONE.part(rows) is rows
    assert THREE[1].part(None) is None


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_draws_of_diffaugment_are_those_of_the_whole_batches(policy: str) -> None:
    real, fake = torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)
    whole = diff_augment(torch.cat([real, fake]), [policy], torch.Generator().manual_seed(1))
    for ranks in THREE:
        mine = torch.cat([ranks.part(real), ranks.part(fake)])
        found = diff_augment(mine, [policy], torch.Generator().manual_seed(1), ranks, groups=2)
        assert torch.equal(found, ranks.part(whole, groups=2))


def test_the_draws_of_augmentation_are_those_of_the_whole_batch() -> None:
    images = torch.randint(256, (12, 1, 16, 16), dtype=torch.uint8)
    whole = augment(images, ("flip", "translate"), torch.Generator().manual_seed(1))
    names = ("flip", "translate")
    parts = [augment(r.part(images), names, torch.Generator().manual_seed(1), ranks=r) for r in THREE]
    assert torch.equal(torch.cat(parts), whole)


def test_a_student_generators_batches_are_parts_of_the_whole_ones() -> None:
    settings = replace(SMALL, batch_size=12)
    alone = StudentData(Pairs(), real_images(), SPACE, settings, CPU, ())
    shared = [StudentData(Pairs(), real_images(), SPACE, settings, CPU, (), ranks) for ranks in THREE]
    for draw in ("pair_batch", "unpaired_batch"):
        parts = [getattr(data, draw)(3) for data in shared]
        for name in ("images", "latents", "encoded"):
            whole = getattr(getattr(alone, draw)(3), name)
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)
    assert torch.equal(shared[2].standing_inputs(1)[0], alone.standing_inputs(1)[0])  # the main rank's work, alone


def test_a_teachers_batches_are_parts_with_their_weights() -> None:
    data = load_real("rotated-digits")
    whole = batch_drawer(data.train.labels, data.label_space, 12, 0, "soft", 2.0).discriminator(4)
    parts = [whole.part(ranks) for ranks in THREE]
    for name in ("rows", "target", "fake", "real_weights", "fake_weights"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_means_of_the_ranks_losses(weighted: bool) -> None:
    """So that the mean of the ranks' gradients is the whole batch's gradient; weights count as in the whole batch."""
    logits, others = torch.randn(12, 4).double(), torch.randn(12, 4).double()
    labels, weights = torch.randint(4, (12,)), (torch.rand(12) * 3).double() if weighted else None

    def values(r: Ranks) -> list[torch.Tensor]:
        part, other, mine = r.part(logits), r.part(others), r.part(weights)
        images = part.clone().requires_grad_(True)
        return [
            hard_loss(part, r.part(labels), 0.1, mine),
            soft_loss(part, other, 4.0, mine),
            squared_loss(part, other, mine),
            hinge_discriminator(part[:, 0], other[:, 0], mine, mine),
            r1_penalty(images.pow(3).sum(1), images),
        ]

    parts = torch.stack([torch.stack(values(ranks)) for ranks in THREE])
    torch.testing.assert_close(parts.mean(0), torch.stack(values(ALONE)), rtol=1e-12, atol=1e-12)


def test_random_streams_and_logs_of_other_ranks(tmp_path: Path) -> None:
    assert THREE[0].purpose("dropout") == "dropout"
    assert len({ranks.purpose("dropout") for ranks in THREE}) == 3
    path = tmp_path / "stats.jsonl"
    StatsLog(path, range(9), writes=False).write({"step": 1})
    assert not path.exists()


def _launched(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """As torchrun starts a rank; nothing listens on port 1."""
    launch = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**launch, **changes}.items():
        monkeypatch.setenv(name, value)


def test_a_cluster_that_sets_the_number_of_processes_only_has_not_launched_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert launched_ranks() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_ranks() == 1
    assert join_ranks("cpu", 3) == (ALONE, CPU)
    _launched(monkeypatch)
    assert launched_ranks() == 4


@pytest.mark.parametrize("batch", [30, 4])
def test_batches_that_ranks_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    _launched(monkeypatch)
    with pytest.raises(UserError, match=f"--batch-size {batch} .* give a multiple of 4, from 8 on"):
        join_ranks("cpu", batch)


@pytest.mark.parametrize(
    ("command", "message"),
    [("sample", "torchrun is for train-teacher"), ("distill", "run `python cli.py sample` first, without torchrun")],
)
def test_what_ranks_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, command: str, message: str
) -> None:
    import cli

    _launched(monkeypatch)
    monkeypatch.setattr("runtime.ranks._launchers_store", _no_store)
    monkeypatch.setattr("runtime.ranks.join_ranks", lambda device, batch: (Ranks(0, 4), CPU))
    assert cli.main([command, "--workspace", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def _no_store() -> Any:
    raise OSError("nobody listens")


def test_without_torchruns_store_every_rank_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.ranks._launchers_store", _no_store)
    with error_report() as speaker:
        assert speaker == ""
    _launched(monkeypatch, RANK="2")
    with error_report() as speaker:
        assert speaker == "rank 2: "


def test_accelerate_is_not_loaded_without_torchrun() -> None:
    code = (
        "import sys; from runtime.ranks import join_ranks; join_ranks('cpu', 7)\n"
        "import layers.batch_statistics, classifiers.trainer, student_trainer.trainer\n"
        "import teacher_sampler.training.trainer\n"
        "assert 'accelerate' not in sys.modules"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=False).returncode == 0


def test_reduced_precision_is_in_the_passes_only(tmp_path: Path) -> None:
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with passes("bfloat16", CPU):
        assert layer(x).dtype == torch.bfloat16
    with passes("float32", CPU):
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    from safetensors.torch import load_file

    settings = replace(SMALL, steps=4, r1_weight=0.1, r1_every=2)
    digits = load_real("digits", real_per_class=10)
    for name in ("float32", "bfloat16"):
        train_generator(tmp_path / name / "generator", replace(settings, precision=name), white=True)
        train_light(digits, tmp_path / name / "light", steps=3, precision=name)
    for kind in ("generator", "light"):
        one, other = (load_file(tmp_path / name / kind / "weights.safetensors") for name in ("float32", "bfloat16"))
        assert {value.dtype for value in other.values() if value.is_floating_point()} == {torch.float32}
        moved = max(float((one[name] - other[name]).abs().max()) for name in one)
        assert 0 < moved < 0.5
    with pytest.raises(UserError, match="precision"):
        replace(SMALL, precision="float16")
    with pytest.raises(UserError, match="precision 'float16'"):
        train_light(digits, tmp_path / "none", precision="float16")


def test_batch_norms_are_exchanged_in_place() -> None:
    """On GPUs by torch's own, except timm's, whose activation torch's conversion would lose; on the CPU by ours."""
    import copy

    from timm.layers import BatchNormAct2d
    from torch import nn

    from layers.batch_statistics import WholeBatchNorm, share_statistics

    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Flatten(), nn.BatchNorm1d(144))
    images = torch.randn(4, 1, 8, 8)
    plain(images)  # running statistics that are not the initial ones
    assert share_statistics(plain, ALONE, CPU) is plain
    for device, kind in (("cuda", nn.SyncBatchNorm), ("cpu", WholeBatchNorm)):
        network = copy.deepcopy(plain)
        parameters = list(network.parameters())
        shared = share_statistics(network, THREE[0], torch.device(device))
        assert [type(shared[index]) for index in (1, 2, 4)] == [kind, WholeBatchNorm, kind]
        assert all(one is other for one, other in zip(parameters, shared.parameters(), strict=True))
        assert list(shared.state_dict()) == list(plain.state_dict())
        assert shared[1].training
        torch.testing.assert_close(shared.eval()(images), copy.deepcopy(plain).eval()(images))

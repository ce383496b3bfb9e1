"""The frame of a training: exact resume, the log, divergence, checkpoints of another training, phases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from runtime import progress
from runtime.errors import UserError
from runtime.ranks import Ranks
from training.ema import ExponentialMovingAverage
from training.loop import Cadence, TrainingLoop, finish_training
from training.state import BestState, NamedState

CADENCE = Cadence(log_steps=4, checkpoint_steps=5)


class Stopped(Exception):
    pass


def train(out: Path, steps: int = 20, stop: int = -1, phase: str = "", first: int = 0) -> dict[str, torch.Tensor]:
    """A training with all kinds of parts; dies in step `stop`.  Returns the tensors of its state."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 1)
    network = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2, fused=True)  # which reads moments in memory order
    ema, best = ExponentialMovingAverage(network, 100.0), BestState()
    state = NamedState(network=network, optimizer=optimizer, ema=ema, best=best, absent=None)
    loop = TrainingLoop("toy", out, steps, state, CADENCE, phase=phase, first=first)
    for step in loop:
        if step == stop:
            raise Stopped
        batch = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        loss = network(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(network, 8)
        loop.log(step, {"loss": loss}, note="as it is")
        if loop.due(step, 6):
            best.note(step + 1, -float(step % 8), network)
    assert [step for step, _ in best.curve] == [6, 12, 18, 20]
    assert best.step == 6
    return state.tensors()


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop", [3, 5, 13, 19])
def test_a_stopped_training_ends_with_the_same_state(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", stop=stop)
    resumed = train(tmp_path / "cut")
    assert resumed.keys() == whole.keys()
    assert {name.partition(".")[0] for name in whole} == {"network", "optimizer", "ema", "best"}
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    assert (tmp_path / "cut/stats.jsonl").read_text() == (tmp_path / "whole/stats.jsonl").read_text()
    assert [(line["step"], line["note"]) for line in lines(tmp_path / "cut")] == [
        (step, "as it is") for step in (4, 8, 12, 16, 20)
    ]


def test_a_finished_training_is_loaded_and_no_step_is_done(tmp_path: Path) -> None:
    whole = train(tmp_path)
    again = train(tmp_path, stop=19)  # its last step is saved too
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    finish_training(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stats.jsonl"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = torch.nn.Linear(3, 3)
    for state, part in (
        (NamedState(network=other), "holds best"),
        (
            NamedState(network=other, optimizer=torch.optim.SGD([*other.parameters()]), ema=other, best=other),
            "its network is another",
        ),
    ):
        with pytest.raises(UserError, match=f"another version of this program .*{part}.*delete the folder"):
            TrainingLoop("toy", tmp_path, 20, state, CADENCE)


def test_divergence_is_one_sentence(tmp_path: Path) -> None:
    loop = TrainingLoop("toy", tmp_path, 8, NamedState(), CADENCE)
    broken = {"fine": torch.tensor(1.0), "loss_d": torch.tensor(float("nan"))}
    loop.log(2, broken)  # no line is due, and nothing is read
    with pytest.raises(UserError, match="toy: loss_d is no longer a finite number at step 4; lower the learning rate"):
        loop.log(3, broken)
    assert lines(tmp_path) == []


def test_only_the_main_rank_writes(tmp_path: Path) -> None:
    class Second(Ranks):
        """Of one, so that nothing is sent."""

        main = property(lambda self: False)  # type: ignore[assignment]

    for step in (loop := TrainingLoop("toy", tmp_path, 8, NamedState(), CADENCE, Second())):
        loop.log(step, {"loss": torch.zeros(())})
    assert list(tmp_path.iterdir()) == []


def test_phases_keep_their_checkpoints_and_lines(tmp_path: Path) -> None:
    """A second phase that dies leaves the first one finished, and its own lines where its checkpoint is."""
    for out, stop in ((tmp_path / "whole", -1), (tmp_path / "cut", 13)):
        train(out, phase="one")
        if stop > 0:
            with pytest.raises(Stopped):
                train(out, stop=stop, phase="two.a", first=20)
            train(out, stop=0, phase="one")  # loaded as finished: no step is done again
        train(out, phase="two.a", first=20)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert [(line["phase"], line["step"]) for line in lines(tmp_path / "cut")][4:6] == [("one", 20), ("two", 24)]


def test_the_best_state_is_the_first_of_equals() -> None:
    network, best = torch.nn.Linear(1, 1), BestState()
    for step, value in ((1, 3.0), (2, 1.0), (3, 1.0), (4, 2.0)):
        torch.nn.init.constant_(network.weight, float(step))
        best.note(step, value, network)
    best.restore(network)
    assert (best.step, best.value, network.weight.item()) == (2, 1.0, 2.0)
    scores_only = BestState(keep=False)
    scores_only.note(1, 1.0, network)
    assert scores_only.state_dict() == {"curve": [(1, 1.0)]}


def test_an_optimizer_without_steps_has_no_state() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    state = NamedState(adam=optimizer)
    assert state.tensors() == {}
    state.load({}, {})


def test_a_bar_is_stopped_where_an_error_leaves_its_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error's traceback keeps the loop alive while the error is printed: the cursor must be there again."""
    monkeypatch.setenv("RETORT_PROGRESS", "on")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    steps = iter(TrainingLoop("toy", tmp_path, 8, NamedState(), CADENCE))
    assert next(steps) == 0
    (bar,) = progress._shown
    assert bar.live.is_started
    progress.stop_bars()
    assert not bar.live.is_started
    assert next(steps) == 1
    del steps
    assert progress._shown == []

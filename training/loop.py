"""The frame of every training: resume, progress, log, finite check, checkpoints, ranks.

    state = NamedState(network=network, optimizer=optimizer)
    loop = TrainingLoop("judge", out, steps, state, Cadence(log_steps=50, checkpoint_steps=500))
    for step in loop:  # from the newest checkpoint on
        seed_step(seed, "judge step", step)
        loss = ...
        loss.backward()
        optimizer.step()
        loop.log(step, {"loss": loss})

A body that is a function of (seed, step) and of the state before it, and an `out` that is given again after a kill,
end with the bytes of an undisturbed training on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
from runtime.progress import Progress, progress
from runtime.ranks import ALONE, Ranks
from runtime.safe_files import printable
from training.checkpoints import CheckpointFolder
from training.state import NamedState
from training.stats_log import StatsLog

CHECKPOINTS = "checkpoints"
STATS_FILE = "stats.jsonl"


class NotFinite(UserError):
    """A training whose loss is no number any more."""


@dataclass(frozen=True)
class Cadence:
    """How often a training writes: a line in its log, and a checkpoint every so many steps or seconds."""

    log_steps: int
    checkpoint_steps: int
    checkpoint_seconds: float = 30.0


class TrainingLoop:
    """The steps of one training that are still to do, numbered from 0 through all of it.

    out: the folder of the result; the loop keeps `checkpoints/` and `stats.jsonl` there.  The state after the last
    step is saved too, so that a kill while the result is written costs no step.  Only the main rank writes.
    A training in several phases has a loop for each: `phase` names it, `first` counts the steps of those before it.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        steps: int,
        state: NamedState,
        cadence: Cadence,
        ranks: Ranks = ALONE,
        *,
        phase: str = "",
        first: int = 0,
    ) -> None:
        """Load the newest checkpoint, if there is one.  UserError where it is of another kind of training."""
        self.name, self.steps, self.state, self.cadence, self.ranks = name, steps, state, cadence, ranks
        self._checkpoints = CheckpointFolder(Path(out) / CHECKPOINTS / phase)
        self.start = self._resume()
        self._first, self._phase = first, {"phase": phase.split(".")[0]} if phase else {}
        lines = range(first + self.start + 1, first + steps + 1)
        self._log = StatsLog(Path(out) / STATS_FILE, lines, ranks.main)
        self._begun = self._saved = time.monotonic()
        self._note = ""

    def __iter__(self) -> Iterator[int]:
        with progress(self.name, self.steps, self.start) as bar:
            for step in range(self.start, self.steps):
                yield step
                self._after(step + 1, bar)

    def due(self, step: int, every: int) -> bool:
        """Whether something that happens after every so many steps, and after the last one, follows this step."""
        return (step + 1) % every == 0 or step + 1 == self.steps

    def log_due(self, step: int) -> bool:
        """Whether `log` will write a line; asked by what is costly to measure."""
        return self.due(step, self.cadence.log_steps)

    def log(self, step: int, scalars: Mapping[str, torch.Tensor], **notes: Any) -> None:
        """Where a line is due: means over the ranks, checked to be finite, into the log; the first one on the bar.

        scalars: means over this rank's part of the batch, best left on the device, since only a line reads them.
        notes: JSON values that are equal on all ranks.  NotFinite where a scalar is not finite.  All ranks call it.
        """
        if not self.log_due(step):
            return
        values = _numbers(self.ranks.mean(scalars))
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise NotFinite(
                f"{self.name}: {broken[0]} is no longer a finite number at step {step + 1}; lower the learning rate."
            )
        self._note = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if "loss" in name)
        self.write(step, {**values, **notes})

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A line of the log, as it is."""
        self._log.write({**self._phase, "step": self._first + step + 1, **values})

    def steps_per_second(self, step: int) -> float:
        """Since this process began, the step in hand included."""
        return (step + 1 - self.start) / (time.monotonic() - self._begun)

    def _resume(self) -> int:
        checkpoint = self._checkpoints.load_latest()
        if checkpoint is not None:
            try:
                self.state.load(checkpoint.tensors, checkpoint.scalars)
            except ValueError as error:
                raise UserError(
                    f"{self._checkpoints.folder} is of another version of this program ({printable(error)}); finish "
                    "the training with that version, or delete the folder to begin anew."
                ) from error
        start = checkpoint.step if checkpoint else 0
        self.ranks.begin(start, self.state.modules())
        return start

    def _after(self, done: int, bar: Progress) -> None:
        overdue = time.monotonic() - self._saved > self.cadence.checkpoint_seconds
        if self.ranks.main and (overdue or self.due(done - 1, self.cadence.checkpoint_steps)):
            self._checkpoints.save(done, self.state.tensors(), self.state.scalars())
            self._saved = time.monotonic()
        bar.update(done, self._note)


def _numbers(scalars: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """All of them in one transfer from the device."""
    stacked = torch.stack([value.detach().double() for value in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))


def finish_training(out: Path, ranks: Ranks = ALONE) -> None:
    """The result in `out` is written: its checkpoints go, and the ranks meet."""
    if ranks.main:
        CheckpointFolder(out / CHECKPOINTS).remove()
    ranks.wait()

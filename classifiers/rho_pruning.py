"""Stopping a hopeless cell early, by Optuna's MedianPruner over the cells that are finished.

The study lives in memory and is rebuilt from the results on disk, so a kill loses nothing and processes share it.
"""

from __future__ import annotations

from collections.abc import Sequence

_FINISHED_CELLS_FIRST = 3  # no pruning before so many of the same student are there to compare with
Curve = Sequence[tuple[int, float]]


class MedianStop:
    """Asks, at every validation, whether a running cell is worse than the median of the finished ones."""

    def __init__(self, finished: Sequence[Curve]) -> None:
        import optuna  # slow to import, and only pruning needs it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_FINISHED_CELLS_FIRST, n_warmup_steps=0)
        study = optuna.create_study(direction="minimize", pruner=pruner)
        for curve in finished:
            if curve:
                study.add_trial(optuna.trial.create_trial(value=curve[-1][1], intermediate_values=dict(curve)))
        self._trial = study.ask()

    def falls_behind(self, step: int, score: float) -> bool:
        """Whether to stop: the best score so far is worse than the median at `step` over the finished cells."""
        self._trial.report(score, step)
        return self._trial.should_prune()

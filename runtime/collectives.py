"""Sums over ranks that gradients pass through.  For trainings of several ranks (`runtime.ranks`) only.

A training minimises the mean of the ranks' losses, and `Ranks.average_gradients` divides by the number of ranks at the
end; so what goes back through a sum over ranks is the sum of what comes from all of them.
"""

from __future__ import annotations

from typing import Any

import torch


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return _reduced(values, "mean")

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:
        return _reduced(slopes[0], "mean")


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, number: int) -> torch.Tensor:
        from accelerate.utils import gather

        ctx.own_rows = slice(number * len(rows), (number + 1) * len(rows))
        return gather(rows.contiguous())

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _reduced(slopes[0], "sum")[ctx.own_rows], None


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The mean over all ranks of equally shaped tensors."""
    return _Mean.apply(values)  # type: ignore[no-untyped-call]


def rows_of_all_ranks(rows: torch.Tensor, number: int) -> torch.Tensor:
    """The rows of all ranks, in the order of their numbers; this rank is `number`, and all have equally many."""
    return _Rows.apply(rows, number)  # type: ignore[no-untyped-call]


def _reduced(values: torch.Tensor, how: str) -> torch.Tensor:
    from accelerate.utils import reduce

    return reduce(values.contiguous(), how)

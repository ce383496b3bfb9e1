"""Numbers that are none must not turn into a score: a measure of them is refused, not NaN."""

from __future__ import annotations

import numpy as np

from runtime.errors import UserError


def require_finite(values: np.ndarray, what: str) -> None:
    """Raise a UserError where an array holds NaN or infinity.  `what`: the values' name, in the plural."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise UserError(
            f"{what} hold {bad} of {values.size} values that are not finite numbers; the network that made them has "
            f"diverged, or its input is broken."
        )

"""Rejection sampling on a density ratio: accept a candidate with probability r / M.

M, the ceiling of a label, is fixed before the main run as the 99.9 % quantile of a pilot (cDR-RS uses the maximum and
lets it grow; one outlier then ruins the acceptance rate, and membership depends on the order of the draws).  Ratios
above M are clipped, and the clipped mass tells how much that costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import UserError
from training.finite import require_finite


@dataclass(frozen=True)
class Acceptance:
    """The rule by which candidates become samples.  Immutable and picklable, so that workers share it.

    `quantile` of the pilot's ratios is the ceiling (1.0 gives the pilot's maximum).  `needs_ratio` False accepts
    everything and asks for no pilot.
    """

    quantile: float = 0.999
    needs_ratio: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.quantile <= 1.0:
            raise UserError(f"the ceiling quantile is {self.quantile:g}; it must be above 0 and at most 1.")

    @staticmethod
    def none() -> Acceptance:
        """Every candidate is accepted; no density ratio and no pilot are needed."""
        return Acceptance(needs_ratio=False)

    def ceiling(self, r: np.ndarray, label: str) -> float:
        """M of one label (or label bin) from its pilot's ratios, float N >= 0.

        Where fewer than one candidate in a thousand has a positive ratio, the quantile is 0 and the maximum stands in.
        Raises UserError naming `label` for an empty pilot, one without a positive ratio, or one that is not finite.
        """
        if not self.needs_ratio:
            return 1.0
        r = np.asarray(r, dtype=np.float64)
        if r.size == 0 or not np.isfinite(r).all():
            raise UserError(
                f"label {label}: the pilot's density ratios are missing or not finite; fit the filter again."
            )
        maximum = float(r.max())
        if maximum <= 0.0:
            raise UserError(
                f"label {label}: all {r.size} pilot candidates have density ratio 0, so none could be accepted; "
                "train the teacher or the filter longer, enlarge the pilot, or sample with --filter none."
            )
        quantile = float(np.quantile(r, self.quantile))
        return quantile if quantile > 0.0 else maximum

    def accept(self, uniforms: np.ndarray, r: np.ndarray, ceiling: float | np.ndarray) -> np.ndarray:
        """bool N: u <= r / M, u in [0, 1); r = 0 never passes.  `ceiling` is one number, or one for each candidate."""
        r = np.asarray(r, dtype=np.float64)
        if not self.needs_ratio:
            return np.ones(len(uniforms), dtype=bool)
        require_finite(r, "density ratios")
        return (np.asarray(uniforms, dtype=np.float64) <= r / ceiling) & (r > 0.0)

    def clipped_mass(self, r: np.ndarray, ceiling: float | np.ndarray) -> float:
        """Share of the ratios' sum that lies above the ceiling: 0 where acceptance follows the ratio exactly."""
        if not self.needs_ratio:
            return 0.0
        r = np.asarray(r, dtype=np.float64)
        require_finite(r, "density ratios")
        total = float(r.sum())
        return float(np.maximum(r - ceiling, 0.0).sum()) / total if total > 0.0 else 0.0

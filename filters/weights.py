"""Importance weights from the density ratio, in place of rejection: nothing is thrown away, each fake counts r times.

E_teacher[r(x, y) loss(x, y)] = E_real[loss(x, y)] where r = p_real / p_teacher, so a loss weighted by r aims at what
rejection sampling aims at.  The weights are self-normalised (mean 1 over the selected rows of each class, so that
classes stay balanced) and clipped at a quantile, since a few huge ratios would make the gradient noisy (truncated
importance sampling: Ionides 2008).  How much the clipping takes away and how many equal rows the weighted ones are
worth (Kish's effective sample size) are reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runtime.errors import UserError
from training.finite import require_finite

if TYPE_CHECKING:
    from image_data.fake.dataset import FakeDataset

Weights = Literal["none", "density_ratio"]

CLIPPING_QUANTILE = 0.99


def importance_weights(
    ratio: np.ndarray, groups: np.ndarray, quantile: float = CLIPPING_QUANTILE
) -> tuple[np.ndarray, dict[str, float]]:
    """(float32 N weights with mean 1 in each group, what they cost).

    ratio: float N >= 0; groups: int64 N, 0 .. G - 1.  Of each group the ratios are clipped at their `quantile`.
    `clipped_mass`: the share of the ratios' sum that lies above the clips; `effective_share`: (sum w)^2 / (N sum w^2),
    1 where all weights are equal.  A group without a positive ratio has weights of 0.
    """
    r = np.asarray(ratio, dtype=np.float64)
    require_finite(r, "density ratios")
    weights = np.zeros(len(r), dtype=np.float64)
    above = 0.0
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ratios = r[rows]
        limit = float(np.quantile(ratios, quantile))
        clipped = np.minimum(ratios, limit) if limit > 0.0 else ratios
        above += float((ratios - clipped).sum())
        mean = float(clipped.mean())
        weights[rows] = clipped / mean if mean > 0.0 else 0.0
    squares = float((weights**2).sum())
    facts = {
        "clipping_quantile": quantile,
        "clipped_mass": above / max(float(r.sum()), 1e-300),
        "effective_share": float(weights.sum()) ** 2 / (len(r) * squares) if squares > 0.0 else 0.0,
        "largest": float(weights.max(initial=0.0)),
    }
    return weights.astype(np.float32), facts


def row_weights(
    fakes: FakeDataset, rows: np.ndarray, label_of_row: np.ndarray
) -> tuple[np.ndarray, dict[str, float | str]]:
    """Weights of the selected rows and their facts; label_of_row: int64 len(rows), equal for rows of one label.

    Continuous labels are weighted as one group.  Raises UserError where the dataset holds no ratios, where they were
    already used to accept its rows, and where a label has no positive ratio.
    """
    ratio = fakes.density_ratio
    if ratio is None:
        raise UserError(
            "--weights density_ratio needs ratios, and these fakes were sampled without a filter; sample with --filter "
            "and --accept all."
        )
    if fakes.manifest.content["needs_ratio"]:
        raise UserError(
            "--weights density_ratio: these fakes were already accepted by their density ratio, which would count "
            "twice; sample with --accept all, or leave --weights out."
        )
    groups = label_of_row if fakes.label_space.kind == "classes" else np.zeros(len(rows), dtype=np.int64)
    weight, facts = importance_weights(ratio[rows], groups)
    for group in np.unique(groups):
        if not weight[groups == group].any():
            label: Any = fakes.labels[rows[np.flatnonzero(groups == group)[0]]]
            raise UserError(f"--weights density_ratio: all fakes of label {label} have ratio 0; fit the filter again.")
    return weight, {"kind": "density_ratio", **facts}

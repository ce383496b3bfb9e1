"""Selection: which rows of a fake dataset to train on, and with which labels (cGAN-KD's filtering and relabelling).

Nothing is copied: any rho, any number and any relabelling is a list of rows over the same files.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from filters.keep import kept_rows
from filters.keep_language import fields_of, show
from filters.weights import Weights, row_weights
from image_data.fake.selection import Selection
from image_data.labels import ContinuousLabels
from runtime.errors import UserError
from runtime.seeds import numpy_generator

if TYPE_CHECKING:
    from image_data.fake.dataset import FakeDataset

Scope = Literal["class", "global"]
Cut = Literal["rank-exact", "strict"]


def select(
    fakes: FakeDataset,
    *,
    rho: float = 1.0,
    nfake_per_label: int | None = None,
    nfake: int | None = None,
    relabel: bool = False,
    scope: Scope | None = None,
    scores: str | None = None,
    seed: int = 0,
    keep: str | None = None,
    weights: Weights = "none",
    cut: Cut = "rank-exact",
) -> Selection:
    """Choose rows of `fakes`; rows come in ascending order.

    keep: an expression over the rows' numbers (`filters.keep_language`); only rows that it keeps go on.
    rho in (0, 1]: of each asked label (scope "class", the default for classes) or of all rows (scope "global", the
    default for continuous labels), exactly ceil(rho n) rows of lowest teacher error stay; ties go to the first.
    cut "strict": the published rule instead, error < rho-quantile, whose number of rows varies with ties.
    nfake_per_label: of what stays, so many of each asked label, drawn by `seed` without replacement.
    nfake: so many in all.  Classes share them evenly, the remainder falls on classes drawn by `seed`, and where a class
    has fewer the others fill up; continuous labels are drawn uniformly.
    relabel: the training label becomes the predictor's: its likeliest class, or its prediction clipped to the range.
    scores: which score set (a digest or its beginning); None takes the dataset's own.
    weights "density_ratio": the selection carries importance weights (`filters.weights`).

    Raises UserError for values out of range, missing scores, and where fewer rows exist than asked for.
    """
    _check_request(rho, nfake_per_label, nfake, scope, cut)
    used: Scope = scope or ("class" if fakes.label_space.kind == "classes" else "global")
    return _select(fakes, _Request(rho, used, nfake_per_label, nfake, relabel, scores, seed, keep, weights, cut))


@dataclass(frozen=True)
class _Request:
    """What `select` was asked for."""

    rho: float
    scope: Scope
    nfake_per_label: int | None
    nfake: int | None
    relabel: bool
    scores: str | None
    seed: int
    keep: str | None
    weights: Weights
    cut: Cut


def _select(fakes: FakeDataset, request: _Request) -> Selection:
    rho, relabel = request.rho, request.relabel
    scored = _Scored(fakes, request)
    error = scored.error if rho < 1.0 or relabel else None
    asked = np.asarray(fakes.labels)
    values, label_of_row = np.unique(asked, axis=0, return_inverse=True)
    label_of_row = label_of_row.reshape(len(asked))
    kept, tree = np.arange(len(asked), dtype=np.int64), None
    if request.keep is not None:
        kept, tree = kept_rows(fakes, request.keep, lambda: scored.error, label_of_row)
    kept_by_keep = len(kept)
    if error is not None and rho < 1.0:
        groups = label_of_row if request.scope == "class" else np.zeros(len(asked), dtype=np.int64)
        rule = below_quantile if request.cut == "strict" else lowest_share
        kept = kept[rule(error[kept], groups[kept], rho)]
    given = np.ones(len(values), dtype=bool)  # labels that have to come out
    if tree is not None and "label" in fields_of(tree):  # those that it leaves no row of were not wanted
        given = np.bincount(label_of_row[kept], minlength=len(values)) > 0
    rows = _draw_rows(request, kept, label_of_row, values, given, fakes.label_space.kind)
    labels = predicted_labels(scored.output(rows), fakes.label_space) if relabel else asked[rows]
    weight, facts = (None, None) if request.weights == "none" else row_weights(fakes, rows, label_of_row[rows])
    recipe: dict[str, Any] = {
        **asdict(request),
        "rho": float(rho),
        "keep": None if tree is None else show(tree),
        "scores": None if error is None else scored.digest,
        "weights": facts,
        "available": len(asked),
        "kept_by_keep": kept_by_keep,
        "kept_by_rho": len(kept),
        "selected": len(rows),
        "relabelled": int((labels != asked[rows]).reshape(len(rows), -1).any(axis=1).sum()) if len(rows) else 0,
        "largest_error": float(error[rows].max()) if error is not None and len(rows) else None,
    }
    return Selection(rows=rows, labels=labels, recipe=recipe, fakes_digest=fakes.digest, weights=weight)


def _draw_rows(
    request: _Request,
    kept: np.ndarray,
    label_of_row: np.ndarray,
    values: np.ndarray,
    given: np.ndarray,
    kind: str,
) -> np.ndarray:
    if request.nfake_per_label is not None:
        return _draw_per_label(kept, label_of_row, values, given, request)
    if request.nfake is not None:
        return _draw_total(kept, label_of_row, len(values), kind, request.nfake, request.rho, request.seed)
    return kept


def lowest_share(errors: np.ndarray, groups: np.ndarray, rho: float) -> np.ndarray:
    """Of each group the ceil(rho n) rows of lowest error; ties go to the earlier row.  Returns int64 rows, ascending.

    errors: float N; groups: int64 N.  cGAN-KD keeps error < quantile, which loses ties and so a varying number of rows.
    """
    share = Fraction(repr(float(rho)))  # the decimal that was typed: 0.1 of 30 is 3, not 3.0000000000000004
    order = np.lexsort((np.arange(len(errors)), errors, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(errors) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(errors)])
    rank = np.arange(len(errors)) - np.repeat(starts, sizes)
    quota = np.array([math.ceil(share * int(size)) for size in sizes], dtype=np.int64)
    return np.sort(order[rank < np.repeat(quota, sizes)]).astype(np.int64)


def below_quantile(errors: np.ndarray, groups: np.ndarray, rho: float) -> np.ndarray:
    """Of each group the rows with error < its rho-quantile (linear interpolation), as cGAN-KD cuts; int64, ascending.

    Rows that equal the quantile are lost, so that ties can leave far fewer than rho n rows, or none.
    """
    below = np.zeros(len(errors), dtype=bool)
    for group in np.unique(groups):
        members = groups == group
        below[members] = errors[members] < np.quantile(errors[members].astype(np.float64), rho)
    return np.flatnonzero(below).astype(np.int64)


def predicted_labels(output: np.ndarray, label_space: Any) -> np.ndarray:
    """The predictor's label of each row: argmax class int64 N, or its prediction, float64, clipped to the range."""
    if label_space.kind == "classes":
        return np.asarray(output).astype(np.float32).argmax(axis=1).astype(np.int64)
    values = np.asarray(output, dtype=np.float64)
    if isinstance(label_space, ContinuousLabels):
        values = np.clip(values, label_space.low, label_space.high)
    return values.reshape(len(values)) if label_space.width == 1 else values


def balanced_quotas(available: np.ndarray, total: int, seed: int) -> np.ndarray:
    """How many of each class: as even as the numbers at hand allow, `total` in all.  int64 C -> int64 C.

    Classes that run out give all they have and the others fill up; the remainder falls on classes drawn by `seed`.
    """
    quotas = np.zeros(len(available), dtype=np.int64)
    order = numpy_generator(seed, "selection", "remainder").permutation(len(available))
    left = total
    while left > 0:
        open_classes = order[quotas[order] < available[order]]
        if not len(open_classes):
            raise ValueError(f"{total} rows are more than the {int(available.sum())} at hand")
        each = left // len(open_classes)
        if each == 0:
            quotas[open_classes[:left]] += 1
            break
        more = np.minimum(each, available[open_classes] - quotas[open_classes])
        quotas[open_classes] += more
        left -= int(more.sum())
    return quotas


def _check_request(rho: float, nfake_per_label: int | None, nfake: int | None, scope: str | None, cut: str) -> None:
    if not 0.0 < rho <= 1.0:
        raise UserError(f"--rho is {rho:g}; it must be above 0 and at most 1 (1 keeps everything).")
    if nfake_per_label is not None and nfake is not None:
        raise UserError("--nfake and --nfake-per-label were both given; give one of them.")
    for name, value in (("--nfake-per-label", nfake_per_label), ("--nfake", nfake)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1.")
    if cut not in ("rank-exact", "strict"):
        raise UserError(f"the cut {cut!r} of --rho is unknown; use rank-exact or strict.")
    if scope not in (None, "class", "global"):
        raise UserError(f"the scope {scope!r} of --rho is unknown; use class or global.")


class _Scored:
    """The predictor's scores, read where they are asked for: the outputs, a thousand times the errors, for relabelling
    alone.
    """

    def __init__(self, fakes: FakeDataset, request: _Request) -> None:
        self._fakes, self._request = fakes, request

    @cached_property
    def digest(self) -> str:
        """Of the score set."""
        if not self._fakes.score_sets():
            rho = self._request.rho
            reason = f"--rho {rho:g}" if rho < 1.0 else "--relabel" if self._request.relabel else "error in --keep"
            raise UserError(
                f"{reason} needs a predictor's scores and these fakes have none; run `score` on them with a "
                "--predictor first, or do without it (--rho 1)."
            )
        return self._fakes.score_set(self._request.scores)

    @cached_property
    def error(self) -> np.ndarray:
        """float32 N; UserError where one is not finite."""
        errors = self._fakes.errors(self.digest)
        if not np.isfinite(errors).all():
            bad = int(np.flatnonzero(~np.isfinite(errors))[0])
            raise UserError(f"score set {self.digest[:8]}: the error of row {bad} is not finite; mend the predictor.")
        return errors

    def output(self, rows: np.ndarray) -> np.ndarray:
        """What the predictor says of these rows."""
        return self._fakes.scores(self.digest).output[rows]


def _draw(rows: np.ndarray, count: int, seed: int, group: int) -> np.ndarray:
    return rows if count == len(rows) else numpy_generator(seed, "selection", group).permutation(rows)[:count]


def _remedy(rho: float) -> str:
    return (
        "lower the number, raise --rho, or sample more fakes" if rho < 1.0 else "lower the number or sample more fakes"
    )


def _draw_per_label(
    kept: np.ndarray, label_of_row: np.ndarray, values: np.ndarray, given: np.ndarray, request: _Request
) -> np.ndarray:
    count, rho = int(request.nfake_per_label or 0), request.rho
    available = np.bincount(label_of_row[kept], minlength=len(values))
    if (available[given] < count).any():
        short = int(np.where(given, available, len(kept) + 1).argmin())
        raise UserError(
            f"--nfake-per-class {count}: label {values[short]} has only {available[short]} fakes left at rho {rho:g}; "
            f"{_remedy(rho)}."
        )
    return _per_group(kept, label_of_row, np.where(given, count, 0), request.seed)


def _draw_total(
    kept: np.ndarray, label_of_row: np.ndarray, labels: int, kind: str, count: int, rho: float, seed: int
) -> np.ndarray:
    if count > len(kept):
        raise UserError(f"--nfake {count}: only {len(kept)} fakes are left at rho {rho:g}; {_remedy(rho)}.")
    if kind != "classes":
        return np.sort(_draw(kept, count, seed, 0))
    quotas = balanced_quotas(np.bincount(label_of_row[kept], minlength=labels), count, seed)
    return _per_group(kept, label_of_row, quotas, seed)


def _per_group(kept: np.ndarray, label_of_row: np.ndarray, quotas: np.ndarray, seed: int) -> np.ndarray:
    order = kept[np.argsort(label_of_row[kept], kind="stable")]
    ends = np.cumsum(np.bincount(label_of_row[kept], minlength=len(quotas)))
    groups = np.split(order, ends[:-1])
    drawn = [
        _draw(rows, int(quota), seed, group) for group, (rows, quota) in enumerate(zip(groups, quotas, strict=True))
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)

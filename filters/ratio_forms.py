"""The three forms of a density ratio: one network that sees the label, one network a class, or nearest neighbours.

Each fills a network that is called with (features, encoded labels), returns what the card says of how it came about,
and stops and continues as all trainings do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from filters.density_ratio import PerClassRatio, RatioNetwork, penalised_softplus
from filters.fitting import Fit
from filters.nearest_ratio import LARGEST_LOG, NearestNeighbourRatio, Statistic
from filters.ratio_training import FeatureTable, train_ratio
from filters.settings import FilterSettings
from interfaces import LabelSpace
from runtime.errors import UserError

SLOPES = np.r_[0.0, np.geomspace(0.05, 100.0, 67)]  # exponents that the nearest-neighbour ratio is calibrated over
LEAST_SHARE = 0.2  # of the held-out fakes that have to carry the mean ratio: fewer could not calibrate it

Tables = tuple[FeatureTable, FeatureTable]


def check_form(settings: FilterSettings, label_space: LabelSpace, labels: np.ndarray) -> None:
    """UserError where this form of the ratio cannot be fitted on these labels."""
    if settings.ratio != "per-class":
        return
    if label_space.kind != "classes":
        raise UserError("--ratio per-class needs class labels, and these are values; use conditional.")
    counts = np.bincount(labels, minlength=label_space.width)
    if counts.min() < 2:
        raise UserError(
            f"--ratio per-class: class {int(counts.argmin())} has {int(counts.min())} real images and needs 2 at "
            "least; use conditional, or give more images."
        )


def fit_ratio(fit: Fit, feature_dim: int, tables: Tables) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """(network, its arguments for the card, how it came about: best_step, best_loss and more)."""
    settings, space = fit.settings, fit.label_space
    shared = {"label_kind": space.kind, "label_width": space.width}
    if settings.ratio == "nearest-neighbours":
        return _nearest_neighbours(fit, {"feature_dim": feature_dim, **shared}, tables)
    arguments = {
        "feature_dim": feature_dim + int(settings.sees_agreement),
        **shared,
        "mlp": settings.mlp,
        "width": settings.width,
        "dropout": settings.resolved_dropout,
    }
    if settings.ratio == "per-class":
        return _per_class(fit, arguments | {"label_kind": "none"}, tables)
    network, best = train_ratio(fit, arguments, tables, "ratio", settings.extractor_steps)
    return network, arguments, best


def _per_class(fit: Fit, arguments: dict[str, Any], tables: Tables) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """One class after the other; a finished one is read back from the checkpoint of its last step."""
    networks: list[RatioNetwork] = []
    by_class: list[dict[str, Any]] = []
    for value in range(fit.label_space.width):
        first = fit.settings.extractor_steps + value * fit.settings.ratio_steps
        of_class = tables[0].of_class(value), tables[1].of_class(value)
        network, best = train_ratio(fit, arguments, of_class, f"ratio.{value}", first)
        networks.append(network)
        by_class.append(best)
    came = {
        "best_step": max(best["best_step"] for best in by_class),
        "best_loss": float(np.mean([best["best_loss"] for best in by_class])),
        "by_class": by_class,
    }
    return PerClassRatio(networks), {"form": "per-class", "classes": len(networks), **arguments}, came


def _nearest_neighbours(
    fit: Fit, arguments: dict[str, Any], tables: Tables
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Store the training features, calibrate on the held-out ones."""
    train, held = tables
    fakes = train.fakes.flatten(0, 1)
    arguments |= {"reals": len(train.real), "fakes": len(fakes), "neighbours": fit.settings.neighbours}
    network = NearestNeighbourRatio(**arguments).to(fit.device)
    repeated = train.encoded.repeat(len(train.fakes), *[1] * (train.encoded.ndim - 1))
    for buffer, values in (
        (network.real, train.real),
        (network.real_labels, train.encoded),
        (network.fake, fakes),
        (network.fake_labels, repeated),
    ):
        buffer.copy_(values)
    groups = len(network.offset)
    copies = held.encoded.repeat(len(held.fakes), *[1] * (held.encoded.ndim - 1))
    real = network.statistic(held.real, held.encoded)
    fake = network.statistic(held.fakes.flatten(0, 1), copies)
    slope, offsets, loss = calibrate(real, fake, groups, fit.settings.penalty)
    network.slope.fill_(slope)
    network.offset.copy_(torch.from_numpy(offsets))
    came = {"best_step": int(slope > 0.0), "best_loss": loss, "exponent": slope, "offsets": offsets.tolist()}
    return network, {"form": "nearest-neighbours", **arguments}, came


def calibrate(real: Statistic, fake: Statistic, groups: int, penalty: float) -> tuple[float, np.ndarray, float]:
    """(slope, float64 offsets, the loss that chose them) on held-out real images and fakes."""
    best: tuple[float, np.ndarray, float] | None = None
    for slope in SLOPES:
        offsets = _offsets(fake, float(slope), groups)
        ratios = _ratios(fake, slope, offsets)
        if slope > 0.0 and float(ratios.mean()) ** 2 / float((ratios**2).mean()) < LEAST_SHARE:
            continue
        loss = _loss(_ratios(real, slope, offsets), ratios, penalty)
        if best is None or loss < best[2]:
            best = float(slope), offsets, loss
    if best is None:
        raise ValueError("there is no slope to try")
    return best


def _offsets(fake: Statistic, slope: float, groups: int) -> np.ndarray:
    """With these the mean ratio on the fakes of each group is 1 (0 for a group without held-out fakes)."""
    logs = fake.base + slope * fake.log_distance_ratio
    offsets = np.zeros(groups)
    for group in np.unique(fake.group):
        of_group = logs[fake.group == group]
        peak = float(of_group.max())
        offsets[group] = -(peak + np.log(np.exp(of_group - peak).mean()))
    return offsets


def _ratios(of: Statistic, slope: float, offsets: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(of.base + slope * of.log_distance_ratio + offsets[of.group], LARGEST_LOG))


def _loss(real: np.ndarray, fake: np.ndarray, penalty: float) -> float:
    return float(penalised_softplus(torch.from_numpy(real), torch.from_numpy(fake), penalty))

"""Training of the density ratio psi on frozen features of real images and of the teacher's fakes.

Source: cDR-RS, the subsampling step of cGAN-KD.  The training is stopped early on held-out real images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from filters.density_ratio import RatioNetwork, penalised_softplus
from filters.fake_pool import teacher_features
from filters.features import Features
from filters.fitting import Fit, blocks
from image_data.batches import BatchOrder
from runtime.seeds import numpy_generator, seed_step
from training.schedules import milestones, set_learning_rate
from training.state import BestState, NamedState

_LR_DROPS = (0.40, 0.75)  # shares of the steps at which the published schedule divides the rate by ten


@dataclass
class FeatureTable:
    """Frozen features: real, N x d; their encoded labels; fakes, copies x N x d: `fakes[:, i]` have real i's label."""

    real: torch.Tensor
    encoded: torch.Tensor
    fakes: torch.Tensor

    def of_class(self, value: int) -> FeatureTable:
        """The part of one class."""
        rows = torch.nonzero(self.encoded == value).squeeze(1)
        return FeatureTable(self.real[rows], self.encoded[rows], self.fakes[:, rows])


def feature_tables(fit: Fit, phi: Features) -> tuple[FeatureTable, FeatureTable]:
    """Features of (training, held-out) reals and of fakes that share their labels, each fake seen in one table only."""
    settings, rows = fit.settings, np.concatenate([fit.train_rows, fit.held_rows])

    def describe(images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        return phi.with_label(images, fit.label_space.encode(labels), settings.sees_agreement)

    real = torch.cat([describe(fit.pixels(block), fit.data.labels[block]) for block in blocks(rows)])
    copies = max(settings.fakes_per_real, -(-settings.fakes_at_least // len(rows)))
    labels = fit.data.labels[rows]
    tiled = np.concatenate([labels] * copies)
    fakes = teacher_features(fit.teacher, tiled, settings.seed, describe).reshape(copies, len(rows), -1)
    encoded, cut = fit.encoded(rows), len(fit.train_rows)
    return (
        FeatureTable(real[:cut].clone(), encoded[:cut], fakes[:, :cut].clone()),
        FeatureTable(real[cut:].clone(), encoded[cut:], fakes[:, cut:].clone()),
    )


@torch.inference_mode()
def table_ratios(network: nn.Module, table: FeatureTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratios of a table's reals, N, and of its fakes, copies * N, without dropout."""
    network.eval()
    r_real = network(table.real, table.encoded)
    return r_real, torch.cat([network(copy, table.encoded) for copy in table.fakes])


def train_ratio(
    fit: Fit, arguments: dict[str, Any], tables: tuple[FeatureTable, FeatureTable], phase: str, first: int
) -> tuple[RatioNetwork, dict[str, Any]]:
    """Train psi and e; the weights with the lowest held-out loss win (step 0, the constant 1, competes).

    phase: names the checkpoints and the random draws.  first: the steps that were done before it.
    """
    settings, name = fit.settings, f"filter.{phase}"
    train, held = tables
    seed_step(settings.seed, f"{name}.init", 0)
    network = RatioNetwork(**arguments).to(fit.device)
    network.set_standardisation(torch.cat([train.real, *train.fakes]))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    best = BestState()
    best.note(0, ratio_figures(network, held, settings.penalty)["loss"], network)
    order = BatchOrder(len(train.real), settings.ratio_batch, settings.seed, name)
    state = NamedState(ratio=network, optimizer=optimizer, best=best)
    loop = fit.loop(phase.replace("ratio", "density ratio"), settings.ratio_steps, state, phase, first)
    for step in loop:
        seed_step(settings.seed, name, step)
        real, fakes, encoded = _batch(train, order.rows(step), settings.seed, name, step)
        network.train()
        r_real, r_fake = network(torch.cat([real, fakes]), torch.cat([encoded, encoded])).chunk(2)
        loss = penalised_softplus(r_real, r_fake, settings.penalty)  # of cDR-RS
        set_learning_rate(optimizer, settings.lr * milestones(step, settings.ratio_steps, _LR_DROPS, 0.1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if loop.log_due(step):
            held_out = ratio_figures(network, held, settings.penalty)
            best.note(step + 1, held_out["loss"], network)
            loop.log(step, {"train_loss": loss}, held_out=held_out)
    best.restore(network)
    return network.eval(), {"best_step": best.step, "best_loss": best.value}


def _batch(
    train: FeatureTable, rows: np.ndarray, seed: int, name: str, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(reals, fakes with the same labels, these labels, encoded): one of the copies of each fake, at random."""
    chosen = torch.from_numpy(rows).to(train.real.device)
    draws = numpy_generator(seed, name.replace("ratio", "fakes"), step)
    copies = torch.from_numpy(draws.integers(len(train.fakes), size=len(rows))).to(train.real.device)
    return train.real[chosen], train.fakes[copies, chosen], train.encoded[chosen]


@torch.inference_mode()
def ratio_figures(network: nn.Module, table: FeatureTable, penalty: float) -> dict[str, float]:
    """Penalised loss over a whole table without dropout, the mean ratio of its reals and of its fakes, and the spread
    of the fakes' ratios (standard deviation over mean): near 0, acceptance does not tell one fake from another.
    """
    r_real, r_fake = table_ratios(network, table)
    loss = penalised_softplus(r_real, r_fake, penalty)
    mean = float(r_fake.mean())
    spread = float(r_fake.std(unbiased=False)) / max(mean, 1e-12)
    return {"loss": float(loss), "mean_r_real": float(r_real.mean()), "mean_r_fake": mean, "spread_r_fake": spread}

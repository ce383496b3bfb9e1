"""Fit a filter and read one back: a folder of `card.json` + `weights.safetensors`, the card last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from filters.density_ratio import DensityRatio, build_ratio_network
from filters.fake_pool import check_teacher
from filters.features import Features, build_feature_network
from filters.fitting import Fit, extractor_arguments, extractor_score, held_out_rows, train_extractor
from filters.ratio_forms import check_form, fit_ratio
from filters.ratio_training import FeatureTable, feature_tables, ratio_figures, table_ratios
from filters.settings import FilterSettings
from image_data.augment import check_augmentations
from image_data.labels import label_space_from_json
from image_data.percentiles import percentiles
from image_data.quarter_turns import learns_turns
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher
from runtime.errors import UserError
from training.loop import finish_training
from training.model_folder import ModelFolder

FOLDER = ModelFolder("filter", "fit the filter again", kind="density ratio", digest="sha256")


def fit_filter(
    data: ImageSource,
    label_space: LabelSpace,
    teacher: Teacher,
    settings: FilterSettings,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str] = (),
    trained_on: Mapping[str, Any] | None = None,
) -> Path:
    """Train extractor and density ratio on real `data` against `teacher` and write them into the folder `out`.

    data: real training images; the validation role must stay out of it, since later choices are scored there.
    A fifth of each class is held out inside for early stopping.  `trained_on` goes into the card.  Continues an
    unfinished folder, returns at once on a finished one.  Raises UserError where data and teacher do not go together.
    """
    out = Path(out)
    if FOLDER.finished(out):
        return out
    fit = _begin(data, label_space, teacher, settings, out, device, allowed_augmentations)
    extractor_args = extractor_arguments(fit)
    extractor = train_extractor(fit, extractor_args)
    tables = feature_tables(fit, Features(extractor, device, {}))
    network, ratio_args, best = fit_ratio(fit, extractor_args["feature_dim"], tables)
    card = {
        "label_space": label_space.to_json(),
        "extractor": extractor_args,
        "ratio": ratio_args,
        "normalisation": "pixel / 127.5 - 1, inside the extractor",
        "teacher": teacher.card.source_digest,
        "trained_on": dict(trained_on or {}),
        "settings": asdict(settings) | {"agreement": settings.sees_agreement},
        "extractor_learns": "quarter turns" if learns_turns(label_space) else "labels",
        "extractor_score": {
            "train": extractor_score(fit, extractor, fit.train_rows),
            "held_out": extractor_score(fit, extractor, fit.held_rows),
        },
        **_findings(network, tables, best, settings.penalty),
    }
    FOLDER.write(out, card, _networks(extractor, network).state_dict())
    finish_training(out)
    return out


def _begin(
    data: ImageSource,
    label_space: LabelSpace,
    teacher: Teacher,
    settings: FilterSettings,
    out: Path,
    device: torch.device,
    allowed_augmentations: Sequence[str],
) -> Fit:
    """Check that all goes together, and split off the held-out images."""
    check_fit(data, label_space, teacher, settings, allowed_augmentations)
    names = check_augmentations(allowed_augmentations, "the real data")
    train_rows, held_rows = held_out_rows(data.labels, label_space, settings.held_out, settings.seed)
    return Fit(data, label_space, teacher, settings, device, names, train_rows, held_rows, out)


def check_fit(
    data: ImageSource,
    label_space: LabelSpace,
    teacher: Teacher,
    settings: FilterSettings,
    allowed_augmentations: Sequence[str],
) -> None:
    """Raise the UserError with which `fit_filter` would refuse all this, before any folder is made."""
    if len(data) < 2:
        raise UserError(f"the real data holds {len(data)} images; a density ratio needs at least 2, and ten a class.")
    label_space.check(data.labels, "the real data")
    check_teacher(teacher, label_space, data.images(np.array([0])).shape[1:], data.labels)
    check_form(settings, label_space, data.labels)
    check_augmentations(allowed_augmentations, "the real data")
    if not len(held_out_rows(data.labels, label_space, settings.held_out, settings.seed)[1]):
        raise UserError(
            f"none of the {len(data)} real images can be held out, on which fitting is stopped; give two or more of a "
            f"class (--real-per-class), better ten."
        )


def _findings(
    network: nn.Module, tables: tuple[FeatureTable, FeatureTable], best: dict[str, Any], penalty: float
) -> dict[str, Any]:
    """The card's numbers.  Reals far above held-out reals tell overfitting; a mean on fakes far below 1, separation."""
    train, held = (ratio_figures(network, table, penalty) for table in tables)
    (train_reals, _), (held_reals, held_fakes) = (table_ratios(network, table) for table in tables)
    return {
        "real_images": {"train": len(tables[0].real), "held_out": len(tables[1].real)},
        "fakes": int(sum(table.fakes.shape[0] * table.fakes.shape[1] for table in tables)),
        "mean_ratio": {
            "train_reals": train["mean_r_real"],
            "held_out_reals": held["mean_r_real"],
            "train_fakes": train["mean_r_fake"],
            "held_out_fakes": held["mean_r_fake"],
        },
        "ratio_percentiles": {  # absent in cards of older versions
            "train_reals": percentiles(train_reals.cpu().numpy()),
            "held_out_reals": percentiles(held_reals.cpu().numpy()),
            "held_out_fakes": percentiles(held_fakes.cpu().numpy()),
        },
        "ratio_spread_on_fakes": held["spread_r_fake"],  # standard deviation / mean; near 0 the filter chooses nothing
        "stopped_at_step": best["best_step"],
        "held_out_loss": best["best_loss"],
        "is_constant": best["best_step"] == 0,
        "fitted": {name: value for name, value in best.items() if name not in ("best_step", "best_loss")},
    }


def _networks(extractor: nn.Module, ratio: nn.Module) -> nn.ModuleDict:
    """Both networks of a folder; their tensors are named extractor.* and ratio.*."""
    return nn.ModuleDict({"extractor": extractor, "ratio": ratio})


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_filter(folder: Path, device: torch.device) -> DensityRatio:
    """The fitted density ratio of a folder, in eval mode on `device`; UserError where the folder is not a whole one."""
    card = read_filter_card(folder)

    def build() -> nn.Module:
        label_space_from_json(card["label_space"])
        return _networks(build_feature_network(card["extractor"]), build_ratio_network(card["ratio"]))

    networks: Any = FOLDER.load(folder, card, build)
    label_space = label_space_from_json(card["label_space"])
    return DensityRatio(Features(networks["extractor"], device, card), networks["ratio"], label_space, card)


def read_filter_card(folder: Path) -> dict[str, Any]:
    """The card of a filter's folder; UserError where there is none or it is another thing's or damaged."""
    return FOLDER.read_card(folder)

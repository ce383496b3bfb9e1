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
from filters.fitting import (
    FeatureTable,
    Fit,
    extractor_arguments,
    extractor_score,
    feature_tables,
    held_out_rows,
    judge,
    table_ratios,
    train_extractor,
)
from filters.ratio_forms import check_form, fit_ratio
from filters.settings import FilterSettings
from image_data.augment import check_augmentations
from image_data.labels import label_space_from_json
from image_data.percentiles import percentiles
from image_data.quarter_turns import learns_turns
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.tensor_files import read_tensors, write_tensors
from training.checkpoints import CheckpointFolder, load_module, module_tensors

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
FORMAT_VERSION = 1


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
    if (out / CARD_FILE).is_file():
        return out
    fit = _begin(data, label_space, teacher, settings, out, device, allowed_augmentations)
    extractor_args = extractor_arguments(fit)
    extractor = train_extractor(fit, extractor_args)
    tables = feature_tables(fit, Features(extractor, device, {}))
    network, ratio_args, best = fit_ratio(fit, extractor, extractor_args["feature_dim"], tables)
    write_tensors(out / WEIGHTS_FILE, module_tensors("extractor", extractor) | module_tensors("ratio", network))
    card = {
        "format_version": FORMAT_VERSION,
        "kind": "density ratio",
        "sha256": file_sha256(out / WEIGHTS_FILE),
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
    write_sealed_json(out / CARD_FILE, card)
    fit.checkpoints.remove()
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
    """Check that all goes together, split off the held-out images, and open the folder."""
    check_fit(data, label_space, teacher, settings, allowed_augmentations)
    names = check_augmentations(allowed_augmentations, "the real data")
    train_rows, held_rows = held_out_rows(data.labels, label_space, settings.held_out, settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointFolder(out / "checkpoints")
    return Fit(data, label_space, teacher, settings, device, names, train_rows, held_rows, checkpoints, out)


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
    train, held = (judge(network, table, penalty) for table in tables)
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


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_filter(folder: Path, device: torch.device) -> DensityRatio:
    """The fitted density ratio of a folder, in eval mode on `device`; UserError where the folder is not a whole one."""
    folder = Path(folder)
    card = read_filter_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        if file_sha256(path) != card["sha256"]:
            raise UserError(f"{path} does not match the digest in its card; restore it or fit the filter again.")
        tensors = read_tensors(path)
        extractor, network = build_feature_network(card["extractor"]), build_ratio_network(card["ratio"])
        load_module("extractor", extractor, tensors)
        load_module("ratio", network, tensors)
        label_space = label_space_from_json(card["label_space"])
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore it or fit the filter again.") from error
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        text = printable(error)
        raise UserError(f"{path} does not hold the networks of its card ({text}); fit the filter again.") from error
    return DensityRatio(Features(extractor, device, card), network, label_space, card)


def read_filter_card(folder: Path) -> dict[str, Any]:
    """The card of a filter's folder; UserError where there is none or it is another thing's or damaged."""
    path = folder / CARD_FILE
    try:
        card = read_sealed_json(path, "restore it or fit the filter again")
    except MissingFile as error:
        raise UserError(f"{folder} holds no {CARD_FILE}; give the folder of a finished filter (fit-filter).") from error
    kind, version = card.get("kind"), card.get("format_version")
    if kind != "density ratio":
        raise UserError(f"{path} is not a filter's card (its kind is {printable(kind)}); fit the filter again.")
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format version {printable(version)}; this program reads version {FORMAT_VERSION}.")
    return card

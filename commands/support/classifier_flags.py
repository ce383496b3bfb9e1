"""The training flags that train-classifier, distill and search-rho share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from classifiers.settings import ClassifierSettings
from commands.support.options import Chosen, entry_option, settings_from, settings_options
from commands.support.workspace import artefact_digest
from runtime.errors import UserError
from runtime.registry import Choice
from training.methods import METHODS

_OWN = {"seed", "network", "method", "beside"}  # not of all commands, or with other defaults
ClassifierFlags: Any = settings_options(ClassifierSettings, "ClassifierFlags", exclude=_OWN)


METHOD_HELP = "none: hard labels; blkd: a teacher's soft labels; others compare features."


class MethodOptions(BaseModel):
    """The distillation method and its settings."""

    aliases: ClassVar[Mapping[str, str]] = {
        name: f"method.{name}" for name in ("label_smoothing", "temperature", "hard_weight", "soft_weight")
    }

    method: Chosen = entry_option(METHODS, "blkd", METHOD_HELP)
    beside: Chosen = entry_option(METHODS, "none", "What is added to a method without labels of its own: none or blkd.")


def classifier_settings(options: Any, network: Choice, method: Choice, **fixed: Any) -> ClassifierSettings:
    """The settings of a training of this network by this method, from the flags."""
    check_length(options)
    settings: ClassifierSettings = settings_from(options, ClassifierSettings, network=network, method=method, **fixed)
    return settings


def check_length(options: Any) -> None:
    """UserError where the length of the training is given twice."""
    if options.epochs is not None and "steps" in options.model_fields_set:
        raise UserError("--epochs and --steps both say how long to train; give one of them.")


def start_of(options: Any) -> dict[str, str]:
    """Of a training's parents: the digest of the classifier that --init-from names; nothing without it."""
    given = options.init_from
    return {} if given is None else {"init_from": artefact_digest("predictor", given)}


def uploaded_bytes(options: Any, source: Any) -> int:
    """What --data-on-device takes for these training images; 0 without it."""
    from image_data.on_device import image_bytes  # here, since it brings torch, and --help passes above

    return image_bytes(source) if options.data_on_device else 0

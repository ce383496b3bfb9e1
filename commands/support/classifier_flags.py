"""The training flags that train-classifier, distill and search-rho share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from classifiers.settings import ClassifierSettings
from commands.support.options import settings_from, settings_options
from runtime.errors import UserError

NAMED_OTHERWISE = {"seed", "student", "distiller", "distiller_weights"}  # --seed, --network, --method and its weights
ClassifierFlags: Any = settings_options(ClassifierSettings, "ClassifierFlags", exclude=NAMED_OTHERWISE)


class HardLabelFlags(BaseModel):
    """Weights of the method `none`."""

    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="Method none: share of a label's mass that all classes get  [default: 0]"
    )


class MethodFlags(HardLabelFlags):
    """Weights of all methods; a method takes its own, and refuses the others."""

    temperature: float | None = Field(
        None, ge=0.01, le=1000, description="Method blkd: the logits are divided by it  [default: 4]"
    )
    hard_weight: float | None = Field(
        None, ge=0, le=1e6, description="Method blkd: weight of the label's loss  [default: 0.1]"
    )
    soft_weight: float | None = Field(
        None, ge=0, le=1e6, description="Method blkd: weight of the teacher's soft labels  [default: 0.9]"
    )


def classifier_settings(options: Any, network: str, method: str, **fixed: Any) -> ClassifierSettings:
    """The settings of a training by this method, from the flags."""
    weights = method_weights(options, method)
    found: ClassifierSettings = settings_from(
        options, ClassifierSettings, student=network, distiller=method, distiller_weights=weights, **fixed
    )
    return found


def method_weights(options: Any, method: str) -> dict[str, float]:
    """The weights that were given; a UserError naming the flag that the method has no use for."""
    from classifiers.distillation import weight_names

    names = [name for name in MethodFlags.model_fields if getattr(options, name, None) is not None]
    strange = [name for name in names if name not in weight_names(method)]
    if strange:
        flags = ", ".join("--" + name.replace("_", "-") for name in strange)
        raise UserError(f"{flags}: method {method} has no use for it; leave it out, or give another --method.")
    return {name: getattr(options, name) for name in names}

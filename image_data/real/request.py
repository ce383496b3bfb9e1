"""What a dataset is asked for, in one object, so that all loaders have one signature."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True)
class LoadRequest:
    """The arguments of `load_real`; None means the dataset's own choice."""

    name: str
    fold: int = 0
    resolution_px: int | None = None
    channels: int | None = None
    real_per_class: int | None = None
    seed: int = 0
    download: bool = False
    augmentations: tuple[str, ...] | None = None  # what the user allows, for data that do not say it themselves


def only_fold(request: LoadRequest) -> None:
    """UserError where a fold is asked of a dataset that has one split only."""
    if request.fold != 0:
        raise UserError(f"{request.name} has one split only, so fold {request.fold} does not exist; use fold 0.")

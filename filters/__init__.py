"""Which samples are worth keeping: density ratio, acceptance, teacher error, selection."""

from filters.acceptance import Acceptance, running_ceilings, smooth_ceilings
from filters.density_ratio import RATIO_NETWORKS, DensityRatio
from filters.fit import fit_filter, load_filter
from filters.selection import select
from filters.settings import FilterSettings
from filters.teacher_error import classification_error, regression_error

__all__ = [
    "RATIO_NETWORKS",
    "Acceptance",
    "DensityRatio",
    "FilterSettings",
    "classification_error",
    "fit_filter",
    "load_filter",
    "regression_error",
    "running_ceilings",
    "select",
    "smooth_ceilings",
]

"""Which samples are worth keeping: density ratio, acceptance, teacher error, selection."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from filters.acceptance import Acceptance as Acceptance
    from filters.density_ratio import RATIO_NETWORKS as RATIO_NETWORKS
    from filters.density_ratio import DensityRatio as DensityRatio
    from filters.fit import check_fit as check_fit
    from filters.fit import fit_filter as fit_filter
    from filters.fit import load_filter as load_filter
    from filters.selection import select as select
    from filters.settings import FilterSettings as FilterSettings
    from filters.teacher_error import classification_error as classification_error
    from filters.teacher_error import regression_error as regression_error

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Acceptance": "filters.acceptance",
        "DensityRatio": "filters.density_ratio",
        "FilterSettings": "filters.settings",
        "RATIO_NETWORKS": "filters.density_ratio",
        "check_fit": "filters.fit",
        "classification_error": "filters.teacher_error",
        "fit_filter": "filters.fit",
        "load_filter": "filters.fit",
        "regression_error": "filters.teacher_error",
        "select": "filters.selection",
    },
)

"""Losses on the insides of a teacher, for teachers whose insides are at hand."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from white_box.losses import WHITE_BOX_LOSSES as WHITE_BOX_LOSSES
    from white_box.settings import WhiteBoxSettings as WhiteBoxSettings
    from white_box.terms import FeatureTerms as FeatureTerms
    from white_box.terms import build_terms as build_terms

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "FeatureTerms": "white_box.terms",
        "WHITE_BOX_LOSSES": "white_box.losses",
        "WhiteBoxSettings": "white_box.settings",
        "build_terms": "white_box.terms",
    },
)

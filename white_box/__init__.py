"""Losses on the insides of a teacher, for teachers whose insides are at hand."""

from white_box.losses import WHITE_BOX_LOSSES
from white_box.settings import WhiteBoxSettings
from white_box.terms import FeatureTerms, build_terms

__all__ = ["WHITE_BOX_LOSSES", "FeatureTerms", "WhiteBoxSettings", "build_terms"]

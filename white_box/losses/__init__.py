"""Losses on one pair of feature maps.  WHITE_BOX_LOSSES holds them by name.

An entry is called with the example maps' channels and the settings and returns an nn.Module:
`loss(student N x C_s x H x W, teacher N x C_t x H x W) -> scalar`; its own parameters (adapters) are trained with the
student.
"""

from white_box.losses import feature_l2, kernel_alignment
from white_box.losses.registry import WHITE_BOX_LOSSES

__all__ = ["WHITE_BOX_LOSSES", "feature_l2", "kernel_alignment"]

"""Settings of the discriminators; free of torch, so that --help can show it."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.bounds import Channels, CountOrNone, ShareBelowOne
from runtime.settings import setting


@dataclass(frozen=True)
class ProjectionSettings:
    """Of the projection discriminator."""

    width: Channels = setting(16, "Channels of the first block; later blocks have up to 8 times as many.", "channels")
    attention_px: CountOrNone = setting(0, "Resolution that gets self-attention; 0 for none.", "px")
    slope: ShareBelowOne = setting(0.0, "Slope of the ReLUs for negative inputs; with 0 a discriminator can die.")

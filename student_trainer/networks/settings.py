"""What the student generators may be told; free of torch, so that --help can show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.bounds import Channels, ChannelsOrNone
from runtime.settings import setting

LatentConditions = Literal["none", "chunk", "all"]
Convolutions = Literal["depthwise", "full"]
Upsampling = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class TinyGanSettings:
    """Of TinyGan; the defaults suit 16 x 16 grey images."""

    base_width: Channels = setting(8, "Channels of the last block; each earlier block has twice as many.", "channels")
    max_width: Channels = setting(512, "Most channels of a block.", "channels")
    start_channels: ChannelsOrNone = setting(
        8, "Channels that the linear layer makes at 4 x 4; 0: as many as the first block takes.", "channels"
    )
    start_hidden: ChannelsOrNone = setting(
        24, "Hidden units before the maps at 4 x 4, which also see the label; 0: one linear layer on z alone.", "units"
    )
    embedding_dim: Channels = setting(12, "Size of the label's embedding.", "numbers")
    latent_conditions: LatentConditions = setting(
        "none", "What of z enters the conditional norms: nothing, one chunk a block, or all of it."
    )
    convolutions: Convolutions = setting("depthwise", "Depthwise convolutions are light, full ones strong.")
    upsampling: Upsampling = setting("bilinear", "Interpolation between the blocks.")

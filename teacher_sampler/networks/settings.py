"""Settings of the teachers that are trained here; free of torch, so that --help can show them."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.bounds import Channels, Count, CountOrNone
from runtime.settings import setting


@dataclass(frozen=True)
class BigGanSettings:
    """Of BigGAN's generator; the defaults suit the digits."""

    width: Channels = setting(16, "Channels of the last block; earlier blocks are wider.", "channels")
    latent_dim: Channels = setting(64, "Size of the latent z.", "numbers")
    label_dim: Channels = setting(32, "Size of the label embedding that all blocks share.", "numbers")
    attention_px: CountOrNone = setting(0, "Resolution that gets self-attention; 0 for none.", "px")
    spectral_normed: bool = setting(True, "Spectral norm in the generator too.")


@dataclass(frozen=True)
class BigGanDeepSettings(BigGanSettings):
    """Of BigGAN-deep's generator."""

    depth: Count = setting(2, "Blocks of each stage.", "blocks")

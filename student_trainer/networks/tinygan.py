"""TinyGAN-style generators for 16 to 128 pixels: a linear layer to 4 x 4, then residual up-sampling blocks.

Source: Chang and Lu, "TinyGAN: Distilling BigGAN for Conditional Image Generation" (ACCV 2020).  It departs from the
original in five places: conditional batch norm scales by 1 + W e with W near 0 (the original uses a raw scale and
starts with scale = shift); z may also enter the conditional norms, as BigGAN does; labels may be continuous; a
block that keeps its width has an identity as its shortcut; images of sizes between (28 of MNIST) are the middle of the
next larger ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from layers.conditional_norm import ConditionalBatchNorm2d
from layers.label_embedding import LabelEmbedding
from runtime.errors import UserError
from student_trainer.networks import GENERATORS
from student_trainer.networks.settings import Convolutions, LatentConditions, TinyGanSettings, Upsampling

RESOLUTIONS_PX = (16, 32, 64, 128)
LEAST_PX = 8
START_PX = 4


def canvas_for(resolution_px: int) -> int:
    """The side, in pixels, at which a student draws images of `resolution_px`; UserError where there is none."""
    for side in RESOLUTIONS_PX:
        if LEAST_PX <= resolution_px <= side:
            return side
    raise UserError(
        f"no student generator makes images of {resolution_px} x {resolution_px} pixels ({LEAST_PX} to "
        f"{RESOLUTIONS_PX[-1]} are possible); sample the fakes with --image-size {RESOLUTIONS_PX[-1]}."
    )


def block_widths(resolution_px: int, base_width: int, max_width: int) -> list[int]:
    """Channels before the first block and after each block, e.g. 32 px, width 32: [128, 128, 64, 32].

    The last block has `base_width` channels, each earlier one twice as many, up to `max_width`.
    """
    if resolution_px not in RESOLUTIONS_PX:
        raise UserError(f"a student generator makes images of 16, 32, 64 or 128 pixels, not {resolution_px}.")
    blocks = int(math.log2(resolution_px // START_PX))
    after = [min(base_width * 2 ** (blocks - 1 - index), max_width) for index in range(blocks)]
    return [after[0], *after]


def convolution(channels_in: int, channels_out: int, kind: Convolutions) -> nn.Module:
    """A 3 x 3 convolution, plain or as depthwise 3 x 3 then pointwise 1 x 1."""
    if kind == "full":
        return nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in),
        nn.Conv2d(channels_in, channels_out, 1),
    )


def start_layers(latent_dim: int, embedding_dim: int, hidden: int, outputs: int) -> nn.Module:
    """From z (and, with hidden units, the label's embedding) to the maps at 4 x 4."""
    if hidden == 0:
        return nn.Linear(latent_dim, outputs)
    return nn.Sequential(nn.Linear(latent_dim + embedding_dim, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class UpBlock(nn.Module):
    """norm, ReLU, up x 2, conv, norm, ReLU, conv; plus a shortcut: up x 2 and, where widths differ, a 1 x 1 conv."""

    def __init__(
        self, channels_in: int, channels_out: int, condition_dim: int, kind: Convolutions, upsampling: Upsampling
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.norm1 = ConditionalBatchNorm2d(channels_in, condition_dim)
        self.conv1 = convolution(channels_in, channels_out, kind)
        self.norm2 = ConditionalBatchNorm2d(channels_out, condition_dim)
        self.conv2 = convolution(channels_out, channels_out, kind)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def _up(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsampling == "nearest":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """N x C x H x W and N x condition_dim -> N x C' x 2H x 2W."""
        main = self.conv1(self._up(F.relu(self.norm1(x, condition))))
        main = self.conv2(F.relu(self.norm2(main, condition)))
        # A 1 x 1 convolution commutes with interpolation (its weights sum to 1), and is four times cheaper before it.
        return main + self._up(self.shortcut(x))


@GENERATORS.register("tinygan", settings=TinyGanSettings)
class TinyGan(nn.Module):
    """network(latents N x z, encoded labels) -> images N x C x H x W in [-1, 1].

    `label_kind` and `label_width` are those of the label space.  The linear layer at the bottom holds most weights of a
    small student.  Two savings: with `start_channels` above 0 it makes that many channels, and a 1 x 1 convolution
    widens them; with `start_hidden` above 0 it is a perceptron with that many hidden units, which also sees the label.
    `latent_conditions` says what of z joins the label
    embedding in the conditional norms: nothing, one chunk a block (BigGAN), or all of it.  `canvas_px`: the side at
    which the blocks work, by default the next that they can have; the middle of the canvas is the image.
    Taps: "blocks.0", ...
    """

    def __init__(
        self,
        resolution_px: int,
        channels: int,
        latent_dim: int,
        label_kind: str,
        label_width: int,
        base_width: int = 32,
        max_width: int = 512,
        start_channels: int = 0,
        start_hidden: int = 0,
        embedding_dim: int = 32,
        latent_conditions: LatentConditions = "chunk",
        convolutions: Convolutions = "depthwise",
        upsampling: Upsampling = "bilinear",
        canvas_px: int | None = None,
    ) -> None:
        super().__init__()
        _check_choice("latent_conditions", latent_conditions, ("none", "chunk", "all"))
        _check_choice("convolutions", convolutions, ("depthwise", "full"))
        _check_choice("upsampling", upsampling, ("bilinear", "nearest"))
        self.canvas_px = canvas_px or canvas_for(resolution_px)
        if self.canvas_px < resolution_px:
            raise UserError(f"student generator: canvas_px {canvas_px} is below the image's {resolution_px}.")
        widths = block_widths(self.canvas_px, base_width, max_width)
        self.border_px = (self.canvas_px - resolution_px) // 2
        blocks = len(widths) - 1
        self.resolution_px, self.channels, self.latent_dim = resolution_px, channels, latent_dim
        self.latent_conditions = latent_conditions
        self.chunk_sizes = [len(chunk) for chunk in torch.arange(latent_dim).tensor_split(blocks)]
        self.start_channels = min(start_channels or widths[0], widths[0])
        self.embedding = LabelEmbedding(label_kind, label_width, embedding_dim)  # type: ignore[arg-type]
        self.start = start_layers(latent_dim, embedding_dim, start_hidden, self.start_channels * START_PX**2)
        self.start_sees_label = start_hidden > 0
        narrow = self.start_channels < widths[0]
        self.widen = nn.Conv2d(self.start_channels, widths[0], 1) if narrow else nn.Identity()
        self.blocks = nn.ModuleList()
        for index in range(blocks):
            of_latent = {"none": 0, "chunk": self.chunk_sizes[index], "all": latent_dim}[latent_conditions]
            block = UpBlock(widths[index], widths[index + 1], embedding_dim + of_latent, convolutions, upsampling)
            self.blocks.append(block)
        self.final_norm = nn.BatchNorm2d(widths[-1])
        self.final = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for part in (self.start, self.widen, self.blocks, self.final):
            part.apply(_initialise)

    def _conditions(self, latents: torch.Tensor, embedded: torch.Tensor) -> list[torch.Tensor]:
        if self.latent_conditions == "none":
            return [embedded] * len(self.chunk_sizes)
        if self.latent_conditions == "all":
            return [torch.cat([embedded, latents], dim=1)] * len(self.chunk_sizes)
        return [torch.cat([embedded, chunk], dim=1) for chunk in latents.split(self.chunk_sizes, dim=1)]

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """float32 N x z; int64 N or float32 N x d -> float32 N x C x H x W in [-1, 1]."""
        embedded = self.embedding(encoded)
        bottom = torch.cat([latents, embedded], dim=1) if self.start_sees_label else latents
        x = self.widen(self.start(bottom).view(-1, self.start_channels, START_PX, START_PX))
        for block, condition in zip(self.blocks, self._conditions(latents, embedded), strict=True):
            x = block(x, condition)
        first, side = self.border_px, self.resolution_px
        return torch.tanh(self.final(F.relu(self.final_norm(x))))[..., first : first + side, first : first + side]


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"student generator: {option} {value!r} is unknown; use {', '.join(known)}.")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2.0) if depthwise else 1.0)
        nn.init.zeros_(module.bias)

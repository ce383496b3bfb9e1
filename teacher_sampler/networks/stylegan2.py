"""The StyleGAN2-ADA generator with the skip architecture (Karras et al. 2020, arXiv:2006.06676 and arXiv:1912.04958).

Always float32.  All gains that the published layers apply at run time (learning-rate multipliers, 1/sqrt(fan in), the
square root of 2 after activations of the mapping) are part of the weights here; an importer folds them in.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import torch
from torch import nn
from torch.nn import functional as F

from interfaces import LabelSpace
from runtime.errors import UserError
from teacher_sampler.networks import TEACHERS

START_PX = 4
LARGEST_PX = 1024
LEAK = 0.2
ACTIVATION_GAIN = math.sqrt(2.0)  # keeps the variance through a leaky ReLU
EPSILON = 1e-8
RESAMPLE_TAPS = (1.0, 3.0, 3.0, 1.0)  # of the low-pass filter, along each axis
NoiseMode = Literal["const", "random", "none"]


class MappingNetwork(nn.Module):
    """z and class -> w: float32 N x latent_dim and int64 N -> N x num_ws x w_dim, one copy for each layer.

    Without label classes the second argument is ignored.  `average` is the mean of w over all classes, to which
    truncation pulls: ws = average + psi (ws - average), in the first `cutoff` layers or in all.
    """

    average: torch.Tensor

    def __init__(
        self, latent_dim: int, label_classes: int, w_dim: int, num_ws: int, layers: int, embedding: int, width: int
    ) -> None:
        super().__init__()
        self.num_ws = num_ws
        self.psi, self.cutoff = 1.0, num_ws
        self.embedding = nn.Embedding(label_classes, embedding) if label_classes else None
        widths = [latent_dim + (embedding if label_classes else 0), *[width] * (layers - 1), w_dim]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.register_buffer("average", torch.zeros(w_dim))

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        w = _unit_power(latents)
        if self.embedding is not None:
            w = torch.cat([w, _unit_power(self.embedding(encoded))], dim=1)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), LEAK)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if self.psi == 1.0 or self.cutoff == 0:
            return ws
        truncated = torch.lerp(self.average, w, self.psi)[:, None].expand(-1, self.cutoff, -1)
        return torch.cat([truncated, ws[:, self.cutoff :]], dim=1)


class ModulatedConv(nn.Module):
    """3x3 convolution whose input channels are scaled by a style, demodulated; then noise, bias, leaky ReLU, clamp.

    The published layer convolves each sample with weights of its own, W s d.  As s belongs to input channels and d to
    output channels, scaling the maps before and after one shared convolution is the same sum; and
    d = (s^2 sum over taps of W^2 + eps)^(-1/2) needs no weights of each sample either.

    `up`: doubles height and width, by a transposed convolution (weight: in x out x 3 x 3, else out x in x 3 x 3)
    and a low-pass filter.  `clamp`: the greatest magnitude of an output, None for no limit.
    """

    noise_map: torch.Tensor
    blur: torch.Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, size_px: int, up: bool, clamp: float | None, noise: bool
    ) -> None:
        super().__init__()
        self.up, self.clamp, self.size_px = up, clamp, size_px
        self.style = nn.Linear(w_dim, in_channels)
        shape = (in_channels, out_channels, 3, 3) if up else (out_channels, in_channels, 3, 3)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None
        if noise:
            self.register_buffer("noise_map", torch.randn(size_px, size_px))
        if up:
            self.register_buffer("blur", resample_filter().expand(out_channels, 1, -1, -1).clone(), persistent=False)

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """N x in x h x w, N x w_dim, and noise N x 1 x size x size or 1 x 1 x size x size (None: none)."""
        style = self.style(w)
        power = self.weight.square().sum(dim=(2, 3))
        demodulation = torch.rsqrt(style.square() @ (power if self.up else power.T) + EPSILON)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.blur, padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        offset = self.bias[None, :, None, None]
        if noise is not None and self.noise_strength is not None:
            offset = offset + noise * self.noise_strength
        # The gain after the activation goes into what the activation is given: a leaky ReLU is homogeneous.
        offset = (ACTIVATION_GAIN * offset).contiguous(memory_format=torch.channels_last)  # the result's format too
        x = torch.addcmul(offset, x, ACTIVATION_GAIN * demodulation[:, :, None, None])
        x = F.leaky_relu(x, LEAK, inplace=True)
        return x if self.clamp is None else _clamped(x, self.clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution; returns the feature map N x C x size x size.  The first one has a single layer."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, size_px: int, **options: Any) -> None:
        super().__init__()
        self.first = size_px == START_PX
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, START_PX, START_PX))
        else:
            self.conv0 = ModulatedConv(in_channels, out_channels, w_dim, size_px, up=True, **options)
        self.conv1 = ModulatedConv(out_channels, out_channels, w_dim, size_px, up=False, **options)

    def forward(self, x: torch.Tensor | None, ws: torch.Tensor, noises: list[torch.Tensor | None]) -> torch.Tensor:
        """`ws`: N x layers x w_dim; `noises`: one for each layer.  `x` is not read by the first block."""
        if self.first:
            x = self.const[None].contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, ws[:, 0], noises[0])
        return self.conv1(x, ws[:, -1], noises[-1])

    @property
    def convolutions(self) -> list[ModulatedConv]:
        """In the order of execution."""
        return [self.conv1] if self.first else [self.conv0, self.conv1]


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image's channels, not demodulated: N x C x h x w -> N x channels x h x w."""

    def __init__(self, in_channels: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.style = nn.Linear(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn(channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # So few output channels make weights of each sample cheap, and one product over the pixels reads x once.
        weights = self.style(w)[:, :, None] * self.weight.T
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        image = torch.baddbmm(self.bias, pixels, weights).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return image if self.clamp is None else _clamped(image, self.clamp)


class StyleGAN2Generator(nn.Module):
    """G(z, y): float32 N x latent_dim and int64 N -> float32 N x channels x H x W, unbounded, nominal [-1, 1].

    `label_classes` 0: y is ignored.  A map of r x r pixels has min(channel_base // r, channel_max) channels.
    `noise_mode`: "const" adds the stored maps, "none" nothing, and "random" cuts `noise` (N x noise_numbers standard
    normals, drawn by torch.randn where it is None) up for the layers.  `use_noise` False: a network without noise.
    `blocks.0`, `blocks.1`, ... (4, 8, ... pixels) are the taps of white-box distillation.
    """

    blur: torch.Tensor

    def __init__(
        self,
        resolution_px: int,
        channels: int,
        latent_dim: int = 512,
        label_classes: int = 0,
        w_dim: int = 512,
        mapping_layers: int = 8,
        mapping_width: int | None = None,
        label_dim: int | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        use_noise: bool = True,
        noise_mode: NoiseMode = "const",
    ) -> None:
        super().__init__()
        sizes = block_sizes(resolution_px)
        if noise_mode not in get_args(NoiseMode):
            raise UserError(f"noise mode {noise_mode!r} is unknown; use one of {', '.join(get_args(NoiseMode))}.")
        self.latent_dim, self.noise_mode, self.use_noise = latent_dim, noise_mode, use_noise
        width, label_width = mapping_width or w_dim, label_dim or w_dim
        num_ws = 2 * len(sizes)
        self.mapping = MappingNetwork(latent_dim, label_classes, w_dim, num_ws, mapping_layers, label_width, width)
        maps = [min(channel_base // size, channel_max) for size in sizes]
        self.blocks = nn.ModuleList(
            SynthesisBlock(before, after, w_dim, size, clamp=conv_clamp, noise=use_noise)
            for size, before, after in zip(sizes, [0, *maps], maps, strict=False)
        )
        # A ModuleDict, since the members of module lists are what distillation takes for blocks.
        self.to_image = nn.ModuleDict(
            {str(size): ToImage(count, channels, w_dim, conv_clamp) for size, count in zip(sizes, maps, strict=True)}
        )
        self.register_buffer("blur", resample_filter().expand(channels, 1, -1, -1).clone(), persistent=False)
        self.apply(_initial)

    @property
    def noise_numbers(self) -> int:
        """How many standard normals an image takes over all layers; 0 unless the noise is random."""
        if self.noise_mode != "random" or not self.use_noise:
            return 0
        return sum(layer.size_px**2 for block in self._blocks() for layer in block.convolutions)

    def truncate(self, psi: float, cutoff: int | None = None) -> None:
        """Pull w towards its average by psi (1: not at all) in the first `cutoff` of the num_ws copies, or in all."""
        most = self.mapping.num_ws
        if not math.isfinite(psi) or not 0 <= (most if cutoff is None else cutoff) <= most:
            raise UserError(f"truncation psi {psi}, cutoff {cutoff}: psi must be a number, the cutoff 0 to {most}.")
        self.mapping.psi, self.mapping.cutoff = float(psi), most if cutoff is None else int(cutoff)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        ws = self.mapping(latents, encoded)
        noises = self._noises(len(latents), noise)
        x: torch.Tensor | None = None
        parts: list[torch.Tensor] = []
        for block, to_image in zip(self._blocks(), self.to_image.values(), strict=True):
            # The w of a block's image is that of the next block's first layer; the last image has one of its own.
            count = len(block.convolutions)
            x = block(x, ws[:, :count], noises[:count])
            parts.append(to_image(x, ws[:, count]))
            ws, noises = ws[:, count:], noises[count:]
        image = parts[0]
        for part in parts[1:]:
            image = self._doubled(image) + part
        return image.contiguous()

    def _blocks(self) -> list[SynthesisBlock]:
        return [cast(SynthesisBlock, block) for block in self.blocks]

    def _noises(self, batch: int, noise: torch.Tensor | None) -> list[torch.Tensor | None]:
        """What each layer adds, before its strength."""
        layers = [layer for block in self._blocks() for layer in block.convolutions]
        if self.noise_mode == "none" or not self.use_noise:
            return [None] * len(layers)
        if self.noise_mode == "const":
            return [layer.noise_map[None, None] for layer in layers]
        if noise is None:
            noise = torch.randn(batch, self.noise_numbers, device=layers[0].weight.device)
        pieces = noise.split([layer.size_px**2 for layer in layers], dim=1)
        return [
            piece.reshape(batch, 1, layer.size_px, layer.size_px) for piece, layer in zip(pieces, layers, strict=True)
        ]

    def _doubled(self, image: torch.Tensor) -> torch.Tensor:
        """Height and width doubled by zeros in between and the low-pass filter (which is symmetric)."""
        return F.conv_transpose2d(image, self.blur, stride=2, padding=1, groups=image.shape[1])


def block_sizes(resolution_px: int) -> list[int]:
    """4, 8, ... resolution_px; UserError where that is no power of two from 8 to 1024."""
    if not 2 * START_PX <= resolution_px <= LARGEST_PX or resolution_px & (resolution_px - 1):
        raise UserError(f"resolution {resolution_px} is not one that stylegan2-ada has; use a power of two, 8 to 1024.")
    return [START_PX << index for index in range((resolution_px // START_PX).bit_length())]


def resample_filter() -> torch.Tensor:
    """float32 4 x 4 with the sum 4, which makes up for the zeros put between the pixels."""
    taps = torch.tensor(RESAMPLE_TAPS)
    square = torch.outer(taps, taps)
    return 4.0 * square / square.sum()


@TEACHERS.register("stylegan2-ada")
def build_stylegan2(label_space: LabelSpace, **arguments: Any) -> StyleGAN2Generator:
    """`arguments`: those of StyleGAN2Generator.  UserError where the labels are not its classes."""
    network = StyleGAN2Generator(**arguments)
    classes = 1 if network.mapping.embedding is None else network.mapping.embedding.num_embeddings
    if label_space.kind != "classes" or label_space.width != classes:
        raise UserError(f"this stylegan2-ada network has {classes} classes; {label_space.to_json()} does not fit it.")
    return network


def _unit_power(x: torch.Tensor) -> torch.Tensor:
    """Each row scaled to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)


def _clamped(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Without a copy where no gradient needs the values before."""
    return x.clamp(-limit, limit) if x.requires_grad else x.clamp_(-limit, limit)


def _initial(layer: nn.Module) -> None:
    """The published initial distribution: unit styles, zero biases, activations of unit variance."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=ACTIVATION_GAIN / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, ModulatedConv | ToImage):
        nn.init.normal_(layer.style.weight, std=1.0 / math.sqrt(layer.style.in_features))
        nn.init.ones_(layer.style.bias)
    if isinstance(layer, ToImage):
        fan_in = layer.weight.shape[1]
        with torch.no_grad():
            layer.style.weight.div_(math.sqrt(fan_in))
            layer.style.bias.div_(math.sqrt(fan_in))

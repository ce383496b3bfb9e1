"""The StyleGAN2-ADA generator written out directly, layer by layer, with the published names of its tensors.

No speed is sought: weights of each sample, convolved in groups, as the published network does it in float32.  It is
the test's oracle for the network in `teacher_sampler` and the baseline of the benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Each row divided by the root of its mean square."""
    return x / torch.sqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def activate(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU times the square root of 2."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2.0)


def filtered(x: torch.Tensor, kernel: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Each channel padded with zeros (left and top, right and bottom) and filtered, with a gain of 4."""
    weight = (4.0 * kernel)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, groups=x.shape[1])


def upsampled(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Doubled: every value followed by a zero, in both directions, then filtered."""
    n, c, h, w = x.shape
    spread = torch.zeros(n, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = x
    return filtered(spread, kernel, 2, 1)


def setup_filter() -> torch.Tensor:
    """4 x 4 with the sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64.0


class FullyConnected(nn.Module):
    """Linear with run-time gains."""

    def __init__(self, inputs: int, outputs: int, multiplier: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain = self.multiplier / math.sqrt(self.weight.shape[1])
        return x @ (self.weight * gain).T + self.bias * self.multiplier


class MappingLayers(nn.Module):
    """z and one-hot c -> ws."""

    w_avg: torch.Tensor

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.num_ws, self.num_layers = num_ws, options.get("num_layers", 8)
        multiplier = options.get("lr_multiplier", 0.01)
        embed = options.get("embed_features", w_dim) if c_dim else 0
        if c_dim:
            self.embed = FullyConnected(c_dim, embed)
        widths = [z_dim + embed, *[options.get("layer_features", w_dim)] * (self.num_layers - 1), w_dim]
        for index in range(self.num_layers):
            setattr(self, f"fc{index}", FullyConnected(widths[index], widths[index + 1], multiplier))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: torch.Tensor, c: torch.Tensor | None, psi: float, cutoff: int | None) -> torch.Tensor:
        x = normalize(z)
        if hasattr(self, "embed"):
            x = torch.cat([x, normalize(self.embed(c))], dim=1)
        for index in range(self.num_layers):
            x = activate(getattr(self, f"fc{index}")(x))
        ws = x[:, None].repeat(1, self.num_ws, 1)
        last = self.num_ws if cutoff is None else cutoff
        ws[:, :last] = self.w_avg + psi * (ws[:, :last] - self.w_avg)
        return ws


class Layer(nn.Module):
    """Modulated, demodulated 3x3 convolution, noise, bias, activation, clamp."""

    resample_filter: torch.Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, size: int, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", setup_filter())

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        weights = self.weight[None] * self.affine(w)[:, None, :, None, None]
        weights = weights * torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        n, outputs, inputs = weights.shape[:3]
        x = x.reshape(1, n * inputs, *x.shape[2:])
        if self.up:
            swapped = weights.transpose(1, 2).reshape(n * inputs, outputs, 3, 3)
            x = F.conv_transpose2d(x, swapped, stride=2, groups=n)
        else:
            x = F.conv2d(x, weights.reshape(n * outputs, inputs, 3, 3), padding=1, groups=n)
        x = x.reshape(n, outputs, *x.shape[2:])
        if self.up:
            x = filtered(x, self.resample_filter, 1, 1)
        if noise is not None:
            x = x + noise * self.noise_strength
        x = activate(x + self.bias[:, None, None])
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution, bias, clamp."""

    def __init__(self, inputs: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        n, inputs, height, width = x.shape
        styles = self.affine(w) / math.sqrt(inputs)
        weights = self.weight[None] * styles[:, None, :, None, None]
        x = F.conv2d(x.reshape(1, n * inputs, height, width), weights.flatten(0, 1), groups=n)
        x = x.reshape(n, -1, height, width) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """The layers of one resolution."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, size: int, channels: int, clamp: float | None) -> None:
        super().__init__()
        if inputs:
            self.conv0 = Layer(inputs, outputs, w_dim, size, True, clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        self.conv1 = Layer(outputs, outputs, w_dim, size, False, clamp)
        self.torgb = ToRGB(outputs, channels, w_dim, clamp)
        self.register_buffer("resample_filter", setup_filter())


class Synthesis(nn.Module):
    """ws -> images, in the skip architecture."""

    def __init__(self, w_dim: int, resolution: int, channels: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        base, most = options.get("channel_base", 32768), options.get("channel_max", 512)
        self.sizes = [2**index for index in range(2, resolution.bit_length())]
        before = 0
        for size in self.sizes:
            width = min(base // size, most)
            setattr(self, f"b{size}", Block(before, width, w_dim, size, channels, options.get("conv_clamp")))
            before = width

    def forward(self, ws: torch.Tensor, noise_mode: str, noise: torch.Tensor | None) -> torch.Tensor:
        position, used = 0, 0
        x, image = torch.empty(0), torch.empty(0)
        for size in self.sizes:
            block = getattr(self, f"b{size}")
            layers = [block.conv1] if size == 4 else [block.conv0, block.conv1]
            if size == 4:
                x = block.const[None].repeat(len(ws), 1, 1, 1)
            for index, layer in enumerate(layers):
                added = layer.noise_const if noise_mode == "const" else None
                if noise_mode == "random":
                    added = noise[:, used : used + size**2].reshape(-1, 1, size, size)  # type: ignore[index]
                    used += size**2
                x = layer(x, ws[:, position + index], added)
            position += len(layers)
            part = block.torgb(x, ws[:, position])
            image = part if size == 4 else upsampled(image, block.resample_filter) + part
        return image


class PlainStyleGAN2(nn.Module):
    """Arguments and tensor names of the published generator; the skip architecture with noise."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        num_ws = 2 * img_resolution.bit_length() - 4
        self.synthesis = Synthesis(w_dim, img_resolution, img_channels, synthesis_kwargs or {})
        self.mapping = MappingLayers(z_dim, c_dim, w_dim, num_ws, mapping_kwargs or {})

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`c`: one-hot float32 N x c_dim; `noise`: the standard normals of all layers, N x their number."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, noise)

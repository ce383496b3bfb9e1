"""CcGAN's generators, plainly: an independent rendering under the original projects' tensor names.

The oracle of the importer's tests and the baseline of the benchmark: spectral norm by torch's hook at every forward,
norms as they are written, shortcuts convolved after upsampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm


class PlainLabelEmbedding(nn.Module):
    """y2h: N x 1 in [0, 1] -> N x dim_embed."""

    def __init__(self, dim_embed: int = 128, layers: int = 5, final_relu: bool = True) -> None:
        super().__init__()
        self.offset = 1e-8 if layers == 5 else 0.0
        parts: list[nn.Module] = [nn.Linear(1, dim_embed)]
        for _ in range(layers - 1):
            parts += [nn.GroupNorm(8, dim_embed), nn.ReLU(), nn.Linear(dim_embed, dim_embed)]
        if final_relu:
            parts.append(nn.ReLU())
        self.main = nn.Sequential(*parts)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.main(y + self.offset)


class PlainConditionalNorm(nn.Module):
    """bn(x) * (1 + gamma(h)) + beta(h)."""

    def __init__(self, channels: int, dim_embed: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.embed_gamma = nn.Linear(dim_embed, channels, bias=False)
        self.embed_beta = nn.Linear(dim_embed, channels, bias=False)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        normed = self.bn(x)
        gamma = self.embed_gamma(h)[:, :, None, None]
        beta = self.embed_beta(h)[:, :, None, None]
        return normed + normed * gamma + beta


class PlainSNGANBlock(nn.Module):
    """A residual block; with `dim_embed` 0 its norms take no condition."""

    def __init__(self, before: int, after: int, dim_embed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.bypass_conv = nn.Conv2d(before, after, 1)
        if dim_embed:
            self.condbn1 = PlainConditionalNorm(before, dim_embed)
            self.condbn2 = PlainConditionalNorm(after, dim_embed)
        norms = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        up = nn.Upsample(scale_factor=2)
        self.model = nn.Sequential(norms[0], nn.ReLU(), up, self.conv1, norms[1], nn.ReLU(), self.conv2)
        self.bypass = nn.Sequential(up, self.bypass_conv)

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> torch.Tensor:
        if h is None:
            return self.model(x) + self.bypass(x)
        a = self.conv1(F.interpolate(F.relu(self.condbn1(x, h)), scale_factor=2))
        return self.conv2(F.relu(self.condbn2(a, h))) + self.bypass(x)


class PlainSNGAN(nn.Module):
    """64 pixels.  `forward(z, h)` with ILI (dim_embed above 0), `forward(z, y)` with NLI (dim_embed 0).

    `first`: channels of the 4 x 4 map in multiples of `width` (16; 8 for SteeringAngle).  `sequence`: the naming of
    RC-49 and UTKFace with NLI.
    """

    def __init__(
        self, z_dim: int = 256, nc: int = 3, width: int = 64, dim_embed: int = 128, first: int = 16,
        sequence: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim_embed, self.sequence = dim_embed, sequence
        widths = [first * width, 8 * width, 4 * width, 2 * width, width]
        self.dense = nn.Linear(z_dim, widths[0] * 16)
        blocks = [PlainSNGANBlock(widths[i], widths[i + 1], dim_embed) for i in range(4)]
        norm, conv = nn.BatchNorm2d(width), nn.Conv2d(width, nc, 3, padding=1)
        self.final: nn.Module
        self.genblock3: nn.Module
        if sequence:
            self.final = conv
            self.genblock1, self.genblock2 = blocks[0], blocks[1]
            self.genblock3 = nn.Sequential(blocks[2], blocks[3], norm, nn.ReLU(), conv, nn.Tanh())
        else:
            self.genblock0, self.genblock1, self.genblock2, self.genblock3 = blocks
            self.final = nn.Sequential(norm, nn.ReLU(), conv, nn.Tanh())

    def forward(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        first = self.dense(z)
        if not self.dim_embed:
            first = first + condition
        x = first.view(len(z), -1, 4, 4)
        if self.sequence:
            return self.genblock3(self.genblock2(self.genblock1(x)))
        h = condition if self.dim_embed else None
        for block in (self.genblock0, self.genblock1, self.genblock2, self.genblock3):
            x = block(x, h)
        return self.final(x)


def _conv(before: int, after: int, size: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, size, padding=size // 2))


class PlainSAGANBlock(nn.Module):
    """A residual block with spectral norm."""

    def __init__(self, before: int, after: int, dim_embed: int) -> None:
        super().__init__()
        self.cond_bn1 = PlainConditionalNorm(before, dim_embed)
        self.snconv2d1 = _conv(before, after, 3)
        self.cond_bn2 = PlainConditionalNorm(after, dim_embed)
        self.snconv2d2 = _conv(after, after, 3)
        self.snconv2d0 = _conv(before, after, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        a = self.snconv2d1(F.interpolate(F.relu(self.cond_bn1(x, h)), scale_factor=2))
        a = self.snconv2d2(F.relu(self.cond_bn2(a, h)))
        return a + self.snconv2d0(F.interpolate(x, scale_factor=2))


class PlainAttention(nn.Module):
    """x + sigma * attn(g A^T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.snconv1x1_theta = _conv(channels, channels // 8, 1)
        self.snconv1x1_phi = _conv(channels, channels // 8, 1)
        self.snconv1x1_g = _conv(channels, channels // 2, 1)
        self.snconv1x1_attn = _conv(channels // 2, channels, 1)
        self.sigma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        theta = self.snconv1x1_theta(x).view(count, -1, height * width)
        phi = F.max_pool2d(self.snconv1x1_phi(x), 2).view(count, -1, height * width // 4)
        g = F.max_pool2d(self.snconv1x1_g(x), 2).view(count, -1, height * width // 4)
        weights = torch.softmax(torch.bmm(theta.transpose(1, 2), phi), dim=-1)
        mixed = torch.bmm(g, weights.transpose(1, 2)).view(count, channels // 2, height, width)
        return x + self.sigma * self.snconv1x1_attn(mixed)


class PlainSAGAN(nn.Module):
    """`forward(z, h)`; 64, 128, 192 or 256 pixels."""

    MULTIPLES: dict[int, tuple[int, ...]] = {
        64: (16, 8, 4, 2, 1),
        128: (16, 16, 8, 4, 2, 1),
        192: (16, 16, 8, 4, 2, 1),
        256: (16, 16, 8, 4, 2, 2, 1),
    }

    def __init__(
        self, z_dim: int = 256, nc: int = 3, gene_ch: int = 64, dim_embed: int = 128,
        img_size: Literal[64, 128, 192, 256] = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [gene_ch * multiple for multiple in self.MULTIPLES[img_size]]
        self.start, self.count = (6 if img_size == 192 else 4), len(widths) - 1
        self.attended = 4 if img_size == 256 else 3
        self.snlinear0 = spectral_norm(nn.Linear(z_dim, widths[0] * self.start**2))
        for index in range(self.count):
            self.add_module(f"block{index + 1}", PlainSAGANBlock(widths[index], widths[index + 1], dim_embed))
        self.self_attn = PlainAttention(widths[self.attended])
        self.bn = nn.BatchNorm2d(widths[-1])
        self.snconv2d1 = _conv(widths[-1], nc, 3)
        if img_size == 192:
            self.label_encoder = nn.Sequential(nn.Linear(1, dim_embed))  # in its files, and never used

    def forward(self, z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = self.snlinear0(z)
        x = x.view(len(z), -1, self.start, self.start)
        for index in range(1, self.count + 1):
            x = getattr(self, f"block{index}")(x, h)
            if index == self.attended:
                x = self.self_attn(x)
        return torch.tanh(self.snconv2d1(F.relu(self.bn(x))))

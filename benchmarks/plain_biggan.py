"""BigGAN and BigGAN-deep written the direct way, with the tensor names of BigGAN-PyTorch checkpoints.

The baseline of `benchmarks/teachers.py` and the oracle of the importers' tests: NCHW, spectral norm computed at every
forward pass from the stored vector, upsampling before the convolutions, one operation after the other.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Dialect = Literal["plain", "mybn", "cross_replica"]
CHANNELS: dict[int, tuple[int, ...]] = {  # of the stages' inputs, then of the last output, in multiples of `width`
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}


class _SpectralNorm(nn.Module):
    """The state of one normalised layer: weight, bias, u0, and sv0, which is written and never read."""

    u0: torch.Tensor

    def __init__(self, shape: tuple[int, ...], bias: bool, normed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.normed = normed
        if normed:
            self.register_buffer("u0", torch.empty(1, shape[0]))
            self.register_buffer("sv0", torch.empty(1))

    def normalised(self) -> torch.Tensor:
        if not self.normed:
            return self.weight
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix)
            u = F.normalize(v @ matrix.t())
            if self.training:
                self.u0.copy_(u)
        return self.weight / (v @ matrix.t() @ u.t()).squeeze()


class _Conv(_SpectralNorm):
    def __init__(self, inside: int, outside: int, size: int, normed: bool, bias: bool = True) -> None:
        super().__init__((outside, inside, size, size), bias, normed)
        self.padding = size // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class _Linear(_SpectralNorm):
    def __init__(self, inside: int, outside: int, normed: bool, bias: bool = True) -> None:
        super().__init__((outside, inside), bias, normed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.normalised(), self.bias)


class _Statistics(nn.Module):
    """Batch norm without weights, under the names of one dialect."""

    def __init__(self, channels: int, names: tuple[str, ...], counter: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.register_buffer(name, torch.empty(channels))
        if counter:
            self.register_buffer(counter, torch.zeros(() if counter == "num_batches_tracked" else 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = (getattr(self, name) for name in self.names)
        return F.batch_norm(x, mean, variance, training=self.training)


class _Norm(_Statistics):
    """Norm whose gain and bias are given by the caller; statistics inside or in a child `bn`, as the dialect has it."""

    def __init__(self, channels: int, dialect: Dialect) -> None:
        super().__init__(channels, ("stored_mean", "stored_var") if dialect == "plain" else (), "")
        self.adds_gain = dialect == "cross_replica"
        if dialect == "mybn":
            self.bn = _Statistics(channels, ("stored_mean", "stored_var"), "accumulation_counter")
        elif dialect == "cross_replica":
            self.bn = _Statistics(channels, ("running_mean", "running_var"), "num_batches_tracked")

    def apply_norm(self, x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        normed = self.bn(x) if hasattr(self, "bn") else _Statistics.forward(self, x)
        if self.adds_gain:
            return normed + gain + bias
        return normed * gain + bias


class _ConditionalNorm(_Norm):
    """`width`: of the condition vector; 0 for tables with one row a class."""

    def __init__(self, channels: int, width: int, classes: int, dialect: Dialect, normed: bool) -> None:
        super().__init__(channels, dialect)
        make = _Linear if width else nn.Embedding
        options = (width, channels, normed, False) if width else (classes, channels)
        self.gain, self.bias = make(*options), make(*options)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.apply_norm(x, 1 + self.gain(y)[:, :, None, None], self.bias(y)[:, :, None, None])


class _OutputNorm(_Norm):
    def __init__(self, channels: int, dialect: Dialect) -> None:
        super().__init__(channels, dialect)
        self.gain, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.apply_norm(x, self.gain[:, None, None], self.bias[:, None, None])


class _Attention(nn.Module):
    def __init__(self, channels: int, normed: bool) -> None:
        super().__init__()
        self.theta = _Conv(channels, channels // 8, 1, normed, bias=False)
        self.phi = _Conv(channels, channels // 8, 1, normed, bias=False)
        self.g = _Conv(channels, channels // 2, 1, normed, bias=False)
        self.o = _Conv(channels // 2, channels, 1, normed, bias=False)
        self.gamma = nn.Parameter(torch.empty(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        weights = torch.softmax(theta.transpose(1, 2).bmm(phi), dim=-1)
        mixed = g.bmm(weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return x + self.gamma * self.o(mixed)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, width: int, classes: int, dialect: Dialect, normed: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Conv(inside, outside, 3, normed), _Conv(outside, outside, 3, normed)
        self.conv_sc = _Conv(inside, outside, 1, normed)
        self.bn1 = _ConditionalNorm(inside, width, classes, dialect, normed)
        self.bn2 = _ConditionalNorm(outside, width, classes, dialect, normed)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2))


class _DeepBlock(nn.Module):
    def __init__(self, inside: int, outside: int, upsample: bool, width: int, dialect: Dialect, normed: bool) -> None:
        super().__init__()
        hidden = inside // 4
        self.outside, self.upsample = outside, upsample
        self.conv1, self.conv4 = _Conv(inside, hidden, 1, normed), _Conv(hidden, outside, 1, normed)
        self.conv2, self.conv3 = _Conv(hidden, hidden, 3, normed), _Conv(hidden, hidden, 3, normed)
        self.bn1 = _ConditionalNorm(inside, width, 0, dialect, normed)
        self.bn2, self.bn3, self.bn4 = (_ConditionalNorm(hidden, width, 0, dialect, normed) for _ in range(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn2(self.conv1(F.relu(self.bn1(x, y))), y))
        kept = x[:, : self.outside]
        if self.upsample:
            h, kept = F.interpolate(h, scale_factor=2), F.interpolate(kept, scale_factor=2)
        h = self.conv3(F.relu(self.bn3(self.conv2(h), y)))
        return self.conv4(F.relu(self.bn4(h, y))) + kept


class PlainBigGAN(nn.Module):
    """images = G(z, classes): float32 N x dim_z and int64 N -> float32 N x 3 x H x W.

    `shared_dim` 0: tables of one row a class in every norm, and z feeds the first layer only.  `hier`: z is cut into
    equal pieces; `dim_z` must be divisible by the number of stages plus one.
    """

    def __init__(
        self,
        resolution: int,
        width: int,
        dim_z: int,
        classes: int,
        shared_dim: int = 0,
        hier: bool = False,
        attention: tuple[int, ...] = (),
        dialect: Dialect = "plain",
        normed: bool = True,
    ) -> None:
        super().__init__()
        maps = [width * multiple for multiple in CHANNELS[resolution]]
        self.chunk = dim_z // len(maps) if hier else dim_z
        if shared_dim:
            self.shared = nn.Embedding(classes, shared_dim)
        self.hier, self.dim_z = hier, dim_z
        condition = shared_dim + (self.chunk if hier else 0)
        self.linear = _Linear(self.chunk, 16 * maps[0], normed)
        self.blocks = nn.ModuleList()
        for stage, (inside, outside) in enumerate(pairwise(maps)):
            self.blocks.append(nn.ModuleList([_Block(inside, outside, condition, classes, dialect, normed)]))
            if 8 << stage in attention:
                self.blocks[stage].append(_Attention(outside, normed))  # type: ignore[operator]
        self.output_layer = nn.Sequential(_OutputNorm(maps[-1], dialect), nn.ReLU(), _Conv(maps[-1], 3, 3, normed))

    def forward(self, z: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        y = self.shared(classes) if hasattr(self, "shared") else classes
        pieces = z.split(self.chunk, dim=1)
        h = self.linear(pieces[0]).view(len(z), -1, 4, 4)
        for stage, block in enumerate(self.blocks):
            condition = torch.cat([y, pieces[stage + 1]], dim=1) if self.hier else y
            h = block[0](h, condition)  # type: ignore[index]
            for attention in block[1:]:  # type: ignore[index]
                h = attention(h)
        return torch.tanh(self.output_layer(h))


class PlainBigGANDeep(nn.Module):
    """images = G(z, classes): float32 N x dim_z and int64 N -> float32 N x 3 x H x W."""

    def __init__(
        self,
        resolution: int,
        width: int,
        dim_z: int,
        classes: int,
        shared_dim: int,
        depth: int = 2,
        attention: tuple[int, ...] = (),
        dialect: Dialect = "plain",
        normed: bool = True,
    ) -> None:
        super().__init__()
        maps = [width * multiple for multiple in CHANNELS[resolution]]
        self.dim_z = dim_z
        self.shared = nn.Embedding(classes, shared_dim)
        condition = shared_dim + dim_z
        self.linear = _Linear(condition, 16 * maps[0], normed)
        self.blocks = nn.ModuleList()
        for stage, (inside, outside) in enumerate(pairwise(maps)):
            for place in range(depth):
                ends = inside if place == 0 else outside
                block = _DeepBlock(inside, ends, place == depth - 1, condition, dialect, normed)
                self.blocks.append(nn.ModuleList([block]))
            if 8 << stage in attention:
                self.blocks[-1].append(_Attention(outside, normed))  # type: ignore[operator]
        self.output_layer = nn.Sequential(_OutputNorm(maps[-1], dialect), nn.ReLU(), _Conv(maps[-1], 3, 3, normed))

    def forward(self, z: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        condition = torch.cat([self.shared(classes), z], dim=1)
        h = self.linear(condition).view(len(z), -1, 4, 4)
        for block in self.blocks:
            h = block[0](h, condition)  # type: ignore[index]
            for attention in block[1:]:  # type: ignore[index]
                h = attention(h)
        return torch.tanh(self.output_layer(h))


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Random values for every tensor, none of them at its neutral value; the images stay within tanh's bend."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        kind = name.rsplit(".", 1)[-1]
        noise = torch.randn(tensor.shape, generator=generator)
        if kind.endswith("_var"):
            tensor.copy_(0.3 + noise.square())
        elif kind == "sv0":
            tensor.copy_(7.0 + noise)
        elif kind == "weight" and tensor.ndim > 1:
            fan = tensor[0].numel()
            tensor.copy_(noise * (0.3 if ".gain." in name or ".bias." in name else 1.0) / fan**0.5)
        elif kind == "gain":
            tensor.copy_(1.0 + 0.3 * noise)
        elif kind in ("u0", "gamma"):
            tensor.copy_(noise)
        else:
            tensor.copy_(0.2 * noise)
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(0.5 * torch.randn(module.weight.shape, generator=generator))
    return network.eval()

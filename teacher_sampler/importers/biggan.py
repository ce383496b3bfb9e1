"""BigGAN-PyTorch checkpoints as BigGANGenerator and BigGANDeepGenerator with plain weights.

Everything is read off the tensors' shapes; whatever is missing, surplus or misshapen for what they say is refused.
Spectral norm is folded in as that program computes it in eval mode, and what its variants write differently becomes
the one form of our networks: tables of one row a class (their label embedding is the identity), chunks of the latent,
and the three ways to hold batch-norm statistics, of which the cross-replica one adds the gain in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from image_data.labels import ClassLabels
from runtime.errors import UserError
from runtime.safe_files.entries import FoundNetwork, read_network
from runtime.safe_files.state_dicts import check_tensors
from teacher_sampler.importers.folding import fold_one_step
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest, class_label_names
from teacher_sampler.importers.registry import std_truncation as truncation_of
from teacher_sampler.networks import TEACHERS
from teacher_sampler.networks.biggan import CHANNEL_MULTIPLES, START_PX

PUBLISHED_PX = (32, 64, 128, 256, 512)
DEPTH_LIMIT = 64  # of blocks a stage; keeps a forged name from asking for millions of tensors
STATISTICS = {  # dialect -> names of mean and variance under a norm
    "plain": ("stored_mean", "stored_var"),
    "mybn": ("bn.stored_mean", "bn.stored_var"),
    "cross_replica": ("bn.running_mean", "bn.running_var"),
}
_UNUSED = re.compile(r"(.+)\.(?:u[1-9]\d*|sv\d+)")  # further singular values, and what is kept for the log
_COUNTERS = re.compile(r"(.+)\.(?:accumulation_counter|num_batches_tracked)")

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """What the shapes tell of a generator.  `label_dim` 0: tables of one row a class in place of an embedding."""

    deep: bool
    resolution_px: int
    width: int
    depth: int
    channels: int
    classes: int
    label_dim: int
    latent_dim: int
    hierarchical: bool
    attention: tuple[int, ...]  # indices of blocks
    dialect: Literal["plain", "mybn", "cross_replica"]
    normless: bool  # conditional norms without statistics: they leave the map as it is (norm_style "nonorm")
    spectral_normed: bool

    @property
    def maps(self) -> list[int]:
        """Channels at 4x4 and after each stage."""
        return [self.width * multiple for multiple in CHANNEL_MULTIPLES[self.resolution_px]]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Channels that come into and leave each block."""
        stages = zip(self.maps[:-1], self.maps[1:], strict=True)
        if not self.deep:
            return list(stages)
        inner = [[(came, came)] + [(came, left)] * (self.depth - 1) for came, left in stages]
        return [block for stage in inner for block in stage]

    @property
    def condition_dim(self) -> int:
        """Numbers that condition a norm; 0 for tables."""
        if self.deep:
            return self.label_dim + self.latent_dim
        return self.label_dim + (self.latent_dim // len(self.maps) if self.hierarchical else 0)

    @property
    def first_dim(self) -> int:
        """Numbers that the first linear layer takes."""
        if self.deep:
            return self.condition_dim
        return self.latent_dim // len(self.maps) if self.hierarchical else self.latent_dim


@IMPORTERS.register("biggan")
def import_biggan(request: ImportRequest) -> ImportedTeacher:
    """A checkpoint of BigGAN-PyTorch's class `BigGAN.Generator`: G_ema.pth, or one that holds it as an entry."""
    return _import("biggan", request)


@IMPORTERS.register("biggan-deep")
def import_biggan_deep(request: ImportRequest) -> ImportedTeacher:
    """A checkpoint of BigGAN-PyTorch's class `BigGANdeep.Generator`."""
    return _import("biggan-deep", request)


def _import(arch: str, request: ImportRequest) -> ImportedTeacher:
    truncation = truncation_of(request)
    path = request.file
    generator = _read(path, request.entry)
    tensors: Tensors = generator.tensors
    layout = read_layout(tensors, path)
    if layout.deep != (arch == "biggan-deep"):
        other = "biggan-deep" if layout.deep else "biggan"
        raise UserError(f"{path} holds a {other} generator; give --arch {other}.")
    expected = expected_tensors(layout)
    check_tensors(tensors, expected, path, lambda name: _is_unused(name, expected))
    tensors = {name: tensors[name].float() for name in expected}
    space = ClassLabels(class_label_names(request, layout.classes))
    arguments = _arguments(layout)
    network = TEACHERS.get(arch)(space, **arguments)
    state = convert(tensors, layout)
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {name} cannot be normalised, its weight or u0 is zero; restore the file.")
    network.load_state_dict(state)
    return ImportedTeacher(
        architecture=arch,
        arguments=arguments,
        resolution_px=layout.resolution_px,
        channels=layout.channels,
        label_space=space,
        latent={"distribution": "normal", "dimension": layout.latent_dim},
        truncation=truncation,
        network=network.eval(),
        notes={
            "program": "BigGAN-PyTorch",
            "batch_norm": layout.dialect,
            "conditional_norm": not layout.normless,
            "spectral_norm": layout.spectral_normed,
            **generator.notes(),
        },
    )


def _is_generator(names: Collection[str]) -> bool:
    """A discriminator has blocks too, but neither an output layer nor conditional norms."""
    return any(name.startswith("output_layer.") or ".bn1.gain" in name for name in names)


def _read(path: Path, entry: str | None) -> FoundNetwork:
    """The checkpoint's generator; a plain sentence for the file beside it that holds settings instead of weights."""
    try:
        return read_network(path, _is_generator, entry)
    except UserError as error:
        if re.match(r"state_dict(_|$)", path.stem) or "activation.ReLU" in str(error.__cause__):
            raise UserError(
                f"{path} holds the settings and counters of a training run and no weights; give G_ema.pth beside it."
            ) from error
        raise


def read_layout(tensors: Tensors, path: Path) -> Layout:
    """The layout by the shapes of a few tensors; UserError where they are missing or fit no published generator."""
    deep = any(re.fullmatch(r"blocks\.\d+\.0\.conv4\.weight", name) for name in tensors)
    _check_anchors(tensors, path, deep)
    gain = tensors["blocks.0.0.bn1.gain.weight"]
    shared = tensors.get("shared.weight")
    first, last = tensors["blocks.0.0.conv1.weight"].shape[1], tensors["output_layer.2.weight"].shape[1]
    count = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d{1,6})\.", name)))
    resolution_px, depth = _row(count, first, last, deep, path)
    label_dim = 0 if shared is None else shared.shape[1]
    linear_in = tensors["linear.weight"].shape[1]
    pieces = count + 1
    hierarchical = deep or (shared is not None and gain.shape[1] > label_dim)
    latent_dim = linear_in - label_dim if deep else linear_in * (pieces if hierarchical else 1)
    if latent_dim < 1:
        raise UserError(
            f"{path}: linear.weight takes {linear_in} numbers, and the label alone has {label_dim}; restore it."
        )
    # Attention stands at the end of a stage; anywhere else its tensors are surplus.
    attention = [index for index in range(depth - 1, count, depth) if f"blocks.{index}.1.gamma" in tensors]
    dialect = _dialect(tensors)
    return Layout(
        deep=deep,
        resolution_px=resolution_px,
        width=last // CHANNEL_MULTIPLES[resolution_px][-1],
        depth=depth,
        channels=tensors["output_layer.2.weight"].shape[0],
        classes=gain.shape[0] if shared is None else shared.shape[0],
        label_dim=label_dim,
        latent_dim=latent_dim,
        hierarchical=hierarchical,
        attention=tuple(attention),
        dialect=dialect,
        normless=dialect == "plain" and not any(re.match(r"blocks\..+_(mean|var)$", name) for name in tensors),
        spectral_normed=any(name.endswith(".u0") for name in tensors),
    )


def _check_anchors(tensors: Tensors, path: Path, deep: bool) -> None:
    """The tensors from which the rest is inferred are there and have the right number of dimensions."""
    anchors = {
        "linear.weight": 2,
        "blocks.0.0.conv1.weight": 4,
        "blocks.0.0.bn1.gain.weight": 2,
        "output_layer.2.weight": 4,
    }
    if deep or "shared.weight" in tensors or "blocks.0.0.bn1.gain.u0" in tensors:
        anchors["shared.weight"] = 2  # a table has no u0: a gain that has one reads the shared embedding
    wrong = [f"{name} is missing" for name in anchors if name not in tensors]
    wrong += [
        f"{name} has shape {list(tensors[name].shape)} in place of {size} dimensions"
        for name, size in anchors.items()
        if name in tensors and (tensors[name].ndim != size or 0 in tensors[name].shape)
    ]
    if wrong:
        raise UserError(f"{path} does not fit this kind of teacher: {'; '.join(wrong)}.")


def _row(count: int, first: int, last: int, deep: bool, path: Path) -> tuple[int, int]:
    """Resolution and depth of the published generator with so many blocks and such first and last channels."""
    for resolution_px in PUBLISHED_PX:
        row = CHANNEL_MULTIPLES[resolution_px]
        depth, rest = divmod(count, len(row) - 1)
        fits = rest == 0 and 1 <= depth <= DEPTH_LIMIT and (deep or depth == 1)
        if fits and first * row[-1] == last * row[0] and last % row[-1] == 0:
            return resolution_px, depth
    raise UserError(
        f"{path} has {count} blocks that begin with {first} channels and end with {last}: no BigGAN-PyTorch generator "
        f"has these; give the checkpoint of one of its published shapes."
    )


def _dialect(tensors: Tensors) -> Literal["plain", "mybn", "cross_replica"]:
    if "output_layer.0.bn.running_mean" in tensors:
        return "cross_replica"
    return "mybn" if "output_layer.0.bn.stored_mean" in tensors else "plain"


def expected_tensors(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of this layout must have."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
        if layout.spectral_normed:
            shapes[f"{name}.u0"] = (1, shape[0])

    def statistics(name: str, channels: int) -> None:
        for statistic in STATISTICS[layout.dialect]:
            shapes[f"{name}.{statistic}"] = (channels,)

    def norm(name: str, channels: int) -> None:
        for part in ("gain", "bias"):
            if layout.label_dim:
                layer(f"{name}.{part}", channels, layout.condition_dim, bias=False)
            else:
                shapes[f"{name}.{part}.weight"] = (layout.classes, channels)
        if not layout.normless:
            statistics(name, channels)

    if layout.label_dim:
        shapes["shared.weight"] = (layout.classes, layout.label_dim)
    layer("linear", layout.maps[0] * START_PX**2, layout.first_dim)
    for index, (came, left) in enumerate(layout.blocks):
        for name, channels in _norms(layout, came, left).items():
            norm(f"blocks.{index}.0.{name}", channels)
        for name, shape in _convolutions(layout, came, left).items():
            layer(f"blocks.{index}.0.{name}", *shape)
        if index in layout.attention:
            for name, (outside, inside) in _attention(left).items():
                layer(f"blocks.{index}.1.{name}", outside, inside, 1, 1, bias=False)
            shapes[f"blocks.{index}.1.gamma"] = ()
    shapes |= {f"output_layer.0.{name}": (layout.maps[-1],) for name in ("gain", "bias")}
    statistics("output_layer.0", layout.maps[-1])
    layer("output_layer.2", layout.channels, layout.maps[-1], 3, 3)
    return shapes


def _norms(layout: Layout, came: int, left: int) -> dict[str, int]:
    if layout.deep:
        return {"bn1": came} | {name: max(1, came // 4) for name in ("bn2", "bn3", "bn4")}
    return {"bn1": came, "bn2": left}


def _convolutions(layout: Layout, came: int, left: int) -> dict[str, tuple[int, int, int, int]]:
    hidden = max(1, came // 4)
    if layout.deep:
        inside = {f"conv{place}": (hidden, hidden, 3, 3) for place in (2, 3)}
        return {"conv1": (hidden, came, 1, 1)} | inside | {"conv4": (left, hidden, 1, 1)}
    return {"conv1": (left, came, 3, 3), "conv2": (left, left, 3, 3), "conv_sc": (left, came, 1, 1)}


def _attention(channels: int) -> dict[str, tuple[int, int]]:
    narrow, half = max(1, channels // 8), max(1, channels // 2)
    return {"theta": (narrow, channels), "phi": (narrow, channels), "g": (half, channels), "o": (channels, half)}


def _is_unused(name: str, expected: Mapping[str, Any]) -> bool:
    """Whether a tensor that belongs to an expected one never has a say in an image."""
    if match := _UNUSED.fullmatch(name):
        return f"{match[1]}.u0" in expected
    if match := _COUNTERS.fullmatch(name):
        return any(f"{match[1]}.{kind}_mean" in expected for kind in ("stored", "running"))
    return False


def _arguments(layout: Layout) -> dict[str, Any]:
    """The keyword arguments of our network."""
    sizes = [2 * START_PX << (index // layout.depth) for index in layout.attention]
    own = {"depth": layout.depth} if layout.deep else {"hierarchical": layout.hierarchical}
    return {
        "resolution_px": layout.resolution_px,
        "channels": layout.channels,
        "width": layout.width,
        "latent_dim": layout.latent_dim,
        "label_dim": (layout.label_dim or layout.classes) + (layout.dialect == "cross_replica"),
        "attention_px": sizes if len(sizes) > 1 else sum(sizes),
        "spectral_normed": False,
        **own,
    }


def convert(tensors: Tensors, layout: Layout) -> dict[str, torch.Tensor]:
    """The state dict of our network from the checked float32 tensors of a checkpoint."""
    state: dict[str, torch.Tensor] = {"embedding.table.weight": _embedding(tensors, layout)}

    def layer(source: str, target: str, bias: bool = True) -> None:
        state[f"{target}.weight"] = _folded(tensors, source)
        if bias:
            state[f"{target}.bias"] = tensors[f"{source}.bias"]

    layer("linear", "linear")
    if layout.deep and layout.dialect == "cross_replica":  # reads the embedding too, but not its constant
        state["linear.weight"] = _with_column(state["linear.weight"], layout.label_dim, 0.0)
    for index, (came, left) in enumerate(layout.blocks):
        for name in _norms(layout, came, left):
            state |= _conditional_norm(tensors, layout, f"blocks.{index}.0.{name}", f"blocks.{index}.{name}")
        for name in _convolutions(layout, came, left):
            layer(f"blocks.{index}.0.{name}", f"blocks.{index}.{name}")
        if index in layout.attention:
            for name in _attention(left):
                layer(f"blocks.{index}.1.{name}", f"attention.{index}.{name}", bias=False)
            state[f"attention.{index}.gamma"] = tensors[f"blocks.{index}.1.gamma"]
    gain, bias = tensors["output_layer.0.gain"], tensors["output_layer.0.bias"]
    if layout.dialect == "cross_replica":
        gain, bias = torch.ones_like(gain), gain + bias
    state |= {"norm.weight": gain, "norm.bias": bias}
    state |= _statistics(tensors, layout, "output_layer.0", "norm")
    layer("output_layer.2", "conv")
    return state


def _embedding(tensors: Tensors, layout: Layout) -> torch.Tensor:
    """Classes x label_dim, with a constant 1 at the end in the cross-replica dialect."""
    table = tensors["shared.weight"] if layout.label_dim else torch.eye(layout.classes)
    if layout.dialect == "cross_replica":
        return _with_column(table, table.shape[1], 1.0)
    return table


def _conditional_norm(tensors: Tensors, layout: Layout, source: str, target: str) -> dict[str, torch.Tensor]:
    gain, bias = (_folded(tensors, f"{source}.{part}") for part in ("gain", "bias"))
    if not layout.label_dim:
        gain, bias = gain.t(), bias.t()
    label_dim = layout.label_dim or layout.classes
    if layout.dialect == "cross_replica":  # norm(x) + (1 + gain) + bias; the 1 is the weight of the constant
        bias = _with_column(gain + bias, label_dim, 1.0)
        gain = torch.zeros_like(bias)
    state = {f"{target}.gain.weight": gain, f"{target}.bias.weight": bias}
    return state | _statistics(tensors, layout, source, f"{target}.bn")


def _with_column(matrix: torch.Tensor, place: int, value: float) -> torch.Tensor:
    """A new column of one value before column `place`."""
    column = torch.full((len(matrix), 1), value)
    return torch.cat([matrix[:, :place], column, matrix[:, place:]], dim=1)


def _statistics(tensors: Tensors, layout: Layout, source: str, target: str) -> dict[str, torch.Tensor]:
    mean, variance = (tensors.get(f"{source}.{name}") for name in STATISTICS[layout.dialect])
    if mean is None or variance is None:  # no norm at all, where the checked tensors have none
        channels = tensors[f"{source}.gain.weight"].shape[0 if layout.label_dim else 1]
        mean, variance = torch.zeros(channels), torch.full((channels,), 1.0 - 1e-5)
    return {
        f"{target}.running_mean": mean,
        f"{target}.running_var": variance,
        f"{target}.num_batches_tracked": torch.zeros((), dtype=torch.int64),
    }


def _folded(tensors: Tensors, name: str) -> torch.Tensor:
    u0 = tensors.get(f"{name}.u0")
    return tensors[f"{name}.weight"] if u0 is None else fold_one_step(tensors[f"{name}.weight"], u0)

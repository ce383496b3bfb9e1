"""CcGAN checkpoints (cGAN-KD and improved_CcGAN: SNGAN and SAGAN) as networks of ours with plain weights.

Everything that the tensors tell is read from them; what they cannot tell is asked for in one sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from image_data.labels import ContinuousLabels
from runtime.errors import UserError
from runtime.safe_files.entries import read_network
from runtime.safe_files.state_dicts import check_tensors
from teacher_sampler.importers.ccgan_labels import Tensors, label_embedding, vote
from teacher_sampler.importers.folding import fold_stored
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest, no_truncation, require
from teacher_sampler.networks.ccgan import NORM_GROUPS, CcGANGenerator

RANGE_REASON = (
    "what the network's labels 0 and 1 stand for in your units, e.g. 0:90 for RC-49, 0:60 for UTKFace, "
    "-88.13:97.92 for cGAN-KD's SteeringAngle"
)
EMBEDDING_REASON = "the file of the label embedding network y2h that this generator was trained with"
_SAGAN_BLOCKS = (4, 5, 6)  # 64, 128 or 192, and 256 pixels
_DCGAN = ("deconv1.", "initial_conv.", "final_conv.")
_START_PX = (4, 6)  # 6: 192 pixels


@dataclass(frozen=True)
class Layout:
    """Which of the original programs' namings a file has.  `modules`: our module -> the original's."""

    arch: Literal["ccgan-sngan", "ccgan-sagan"]
    conditioning: Literal["embedded", "added"]
    block_count: int
    attention_after: int | None
    modules: Mapping[str, str]
    redundant: str  # a pattern of the names that may be there unused


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: the tensors that it needs, with their shapes, and the way from them."""

    needs: Mapping[str, tuple[int, ...]]
    make: Callable[[Tensors], torch.Tensor]


@IMPORTERS.register("ccgan-sngan")
def import_sngan(request: ImportRequest) -> ImportedTeacher:
    """The SNGAN generator, 64 pixels, with either label input.  UserError as `_import` says."""
    return _import("ccgan-sngan", request)


@IMPORTERS.register("ccgan-sagan")
def import_sagan(request: ImportRequest) -> ImportedTeacher:
    """The SAGAN generator, 64 to 256 pixels, improved label input.  UserError as `_import` says."""
    return _import("ccgan-sagan", request)


def _import(arch: str, request: ImportRequest) -> ImportedTeacher:
    """UserError where files are damaged or do not fit, all wrong tensors listed, or where options are missing."""
    no_truncation(arch, request)
    path = request.file
    generator = read_network(path, _is_generator, request.entry)
    tensors = generator.tensors
    layout = read_layout(tensors, path)
    if layout.arch != arch:
        raise UserError(
            f"{path} holds the {layout.arch.removeprefix('ccgan-').upper()} generator; give --arch {layout.arch}."
        )
    low, high = _ask(layout, request)
    arguments = _arguments(tensors, layout)
    embedding: dict[str, torch.Tensor] = {}
    notes: dict[str, Any] = {}
    if layout.conditioning == "embedded" and request.label_embedding is not None:
        y2h, notes = label_embedding(request.label_embedding, request, high - low)
        embedding = {f"embedding.{name}": value for name, value in y2h.state_dict().items()}
        arguments |= {"embedding_layers": y2h.layers, "final_relu": y2h.final_relu}
    network = _empty(arguments)
    sources = _sources(tensors, layout, network)
    expected = {name: shape for source in sources.values() for name, shape in source.needs.items()}
    check_tensors(tensors, expected, path, lambda name: re.fullmatch(layout.redundant, name) is not None)
    if embedding and y2h.dimension != arguments["embedding_dim"]:
        raise UserError(
            f"{request.label_embedding} embeds a label as {y2h.dimension} numbers, but {path} takes "
            f"{arguments['embedding_dim']}; give the label embedding that this generator was trained with."
        )
    state = {name: source.make(tensors) for name, source in sources.items()} | embedding
    _check_folded(state, sources, path)
    network.load_state_dict(state, assign=True)
    return ImportedTeacher(
        architecture="ccgan",
        arguments=arguments,
        resolution_px=arguments["start_px"] << layout.block_count,
        channels=arguments["channels"],
        label_space=ContinuousLabels(low, high, request.label_unit),
        latent={"distribution": "normal", "dimension": arguments["latent_dim"]},
        network=network.eval().requires_grad_(False),
        notes={**notes, **generator.notes()},
    )


def _is_generator(names: Collection[str]) -> bool:
    """By a block or the first layer of any of CcGAN's generators, the unsupported DCGAN one too."""
    return any(name.startswith(("genblock", "snlinear0.", *_DCGAN)) for name in names)


def _ask(layout: Layout, request: ImportRequest) -> tuple[float, float]:
    """The label's range.  UserError for all that is missing at once, or for what does not belong to this teacher."""
    missing = {}
    if request.label_range is None:
        missing["--label-range LOW:HIGH"] = RANGE_REASON
    if layout.conditioning == "embedded" and request.label_embedding is None:
        missing["--label-embedding FILE"] = EMBEDDING_REASON
    require(layout.arch, missing)
    surplus = _about_embeddings(request)
    if layout.conditioning == "added" and surplus:
        raise UserError(f"{surplus}: {request.path} takes its label as it is (naive label input); leave it out.")
    low, high = request.label_range or (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--label-range {low:g}:{high:g} is no range; give two finite numbers, the smaller first.")
    return float(low), float(high)


def _about_embeddings(request: ImportRequest) -> str:
    """The flags that only a generator with a label embedding has a use for, as the user gave them."""
    files = {"--label-embedding": request.label_embedding, "--label-network": request.label_network}
    given = [f"{flag} {path}" for flag, path in files.items() if path is not None]
    if request.final_relu is not None:
        given.append("--final-relu" if request.final_relu else "--no-final-relu")
    return ", ".join(given)


def read_layout(tensors: Tensors, path: Path) -> Layout:
    """UserError where the names are those of no generator that is known here."""
    if any(name.startswith(_DCGAN) for name in tensors):
        raise UserError(
            f"{path} holds CcGAN's DCGAN generator, which is not supported; export it as ONNX and give --arch onnx."
        )
    if any(name.startswith(("snlinear0.", "self_attn.")) for name in tensors):
        return _sagan_layout(tensors)
    if any(name.startswith(("dense.", "genblock")) for name in tensors):
        return _sngan_layout(tensors)
    raise UserError(
        f"{path} holds no CcGAN generator: it has neither dense and genblock1 (SNGAN) nor snlinear0 and block1 "
        f"(SAGAN), but {', '.join(sorted(tensors)[:3])}; give another file or --arch."
    )


def _sngan_layout(names: Iterable[str]) -> Layout:
    embedded = any(".condbn" in name for name in names)
    # RC-49's and UTKFace's files with naive label input hold the last two blocks and the output in one sequence.
    sequence = not embedded and any(name.startswith(("genblock3.0.", "genblock3.1.")) for name in names)
    if sequence:
        blocks = ["genblock1", "genblock2", "genblock3.0", "genblock3.1"]
        ends = {"norm": "genblock3.2", "conv": "genblock3.4"}
    else:
        blocks = [f"genblock{index}" for index in range(4)]
        ends = {"norm": "final.0", "conv": "final.2"}
    norms = ("condbn1", "condbn2") if embedded else ("model.0", "model.4")
    parts = {"conv1": "conv1", "conv2": "conv2", "conv_sc": "bypass_conv", "bn1": norms[0], "bn2": norms[1]}
    # Each block also lists its convolutions as model.3, model.6 and bypass.1, the same tensors; with a label embedding
    # its norms without a condition are there and never used.
    unused = ["(model[.][36]|bypass[.]1)[.](weight|bias)", "(model[.][04]|condbn[12][.]bn)[.]num_batches_tracked"]
    unused += ["model[.][04][.](weight|bias|running_mean|running_var)"] if embedded else []
    redundant = f"({'|'.join(map(re.escape, blocks))})[.]({'|'.join(unused)})"
    redundant += f"|{re.escape(ends['norm'])}[.]num_batches_tracked"
    redundant += "|final[.](weight|bias)" if sequence else ""
    return Layout(
        "ccgan-sngan", "embedded" if embedded else "added", 4, None,
        _modules("dense", blocks, parts) | ends, redundant,
    )  # fmt: skip


def _sagan_layout(names: Iterable[str]) -> Layout:
    numbers = [int(match[1]) for name in names if (match := re.match(r"block([0-9])[.]", name))]
    count = min(max([*numbers, _SAGAN_BLOCKS[0]]), _SAGAN_BLOCKS[-1])
    parts = {"conv1": "snconv2d1", "conv2": "snconv2d2", "conv_sc": "snconv2d0", "bn1": "cond_bn1", "bn2": "cond_bn2"}
    modules = _modules("snlinear0", [f"block{index + 1}" for index in range(count)], parts)
    attention = {f"attention.{ours}": f"self_attn.snconv1x1_{ours}" for ours in ("theta", "phi", "g")}
    attention |= {"attention.o": "self_attn.snconv1x1_attn", "attention": "self_attn"}
    redundant = "(block[0-9][.]cond_bn[12][.])?bn[.]num_batches_tracked"
    redundant += "|label_encoder[.]0[.][a-z_]+" if count == 5 else ""  # built at 192 pixels, and never used
    return Layout(
        "ccgan-sagan", "embedded", count, 3 if count == 6 else 2,
        modules | attention | {"norm": "bn", "conv": "snconv2d1"}, redundant,
    )  # fmt: skip


def _modules(linear: str, blocks: list[str], parts: Mapping[str, str]) -> dict[str, str]:
    modules = {"linear": linear}
    for index, block in enumerate(blocks):
        modules |= {f"blocks.{index}.{target}": f"{block}.{source}" for target, source in parts.items()}
    return modules


def _arguments(tensors: Tensors, layout: Layout) -> dict[str, Any]:
    """CcGANGenerator's arguments, each by the majority of the tensors that tell it, so that one misshapen tensor is
    reported as such.
    """
    modules = layout.modules

    def weight(module: str, axis: int) -> list[tuple[str, int]]:
        return [(f"{modules[module]}.{kind}", axis) for kind in ("weight_orig", "weight")]

    def per_output(module: str) -> list[tuple[str, int]]:
        return [(f"{modules[module]}.{kind}", 0) for kind in ("bias", "weight_u")]

    def statistics(module: str) -> list[tuple[str, int]]:
        inner = ".bn" if layout.conditioning == "embedded" else ""
        return [(f"{modules[module]}{inner}.running_{kind}", 0) for kind in ("mean", "var")]

    tellers: list[list[tuple[str, int]]] = [[] for _ in range(layout.block_count + 1)]
    embedders = []
    for index in range(layout.block_count):
        block = f"blocks.{index}"
        tellers[index] += weight(f"{block}.conv1", 1) + weight(f"{block}.conv_sc", 1) + statistics(f"{block}.bn1")
        tellers[index + 1] += weight(f"{block}.conv1", 0) + weight(f"{block}.conv_sc", 0) + statistics(f"{block}.bn2")
        tellers[index + 1] += weight(f"{block}.conv2", 0) + weight(f"{block}.conv2", 1)
        norms = [modules[f"{block}.bn1"], modules[f"{block}.bn2"]]
        embedders += [(f"{norm}.embed_{kind}.weight", 1) for norm in norms for kind in ("gamma", "beta")]
    widths = [vote(tensors, names) for names in tellers]
    outputs = vote(tensors, [*weight("linear", 0), *per_output("linear")])
    arguments: dict[str, Any] = {
        "latent_dim": vote(tensors, [*weight("linear", 1), (f"{modules['linear']}.weight_v", 0)]),
        "widths": widths,
        "channels": vote(tensors, [*weight("conv", 0), *per_output("conv")]),
        "conditioning": layout.conditioning,
        "start_px": next((size for size in _START_PX if size * size * widths[0] == outputs), _START_PX[0]),
        "attention_after": layout.attention_after,
    }
    if layout.conditioning == "embedded":
        arguments["embedding_dim"] = vote(tensors, embedders, NORM_GROUPS)
    return arguments


def _empty(arguments: Mapping[str, Any]) -> CcGANGenerator:
    """The network without memory for its weights: shapes only, until the file's tensors are in their place."""
    dimension = arguments.get("embedding_dim", NORM_GROUPS)
    if dimension % NORM_GROUPS:
        raise UserError(f"the generator takes labels of {dimension} numbers, which no label embedding gives.")
    with torch.device("meta"):
        return CcGANGenerator(**arguments)


def _sources(tensors: Tensors, layout: Layout, network: CcGANGenerator) -> dict[str, Source]:
    """For each tensor of the generator, the label embedding aside."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    sources = {}
    for name, shape in shapes.items():
        if name.startswith("embedding."):
            continue
        module, _, kind = name.rpartition(".")
        outer, _, inner = module.rpartition(".")
        if kind == "num_batches_tracked":
            sources[name] = Source({}, lambda _: torch.zeros((), dtype=torch.int64))
        elif module == "attention":
            sources[name] = _reshaped("self_attn.sigma", (1,), ())
        elif module in layout.modules:
            sources[name] = _weight(tensors, f"{layout.modules[module]}.{kind}", shape)
        elif inner == "bn":
            between = "bn." if layout.conditioning == "embedded" else ""
            sources[name] = _reshaped(f"{layout.modules[outer]}.{between}{kind}", shape, shape)
        elif layout.conditioning == "embedded":
            part = {"gain": "embed_gamma", "bias": "embed_beta"}[inner]
            sources[name] = _reshaped(f"{layout.modules[outer]}.{part}.{kind}", shape, shape)
        else:
            part, offset = {"gain": ("weight", -1.0), "bias": ("bias", 0.0)}[inner]
            sources[name] = _reshaped(f"{layout.modules[outer]}.{part}", shape[:1], shape, offset)
    return sources


def _reshaped(name: str, before: tuple[int, ...], after: tuple[int, ...], offset: float = 0.0) -> Source:
    return Source({name: before}, lambda tensors: tensors[name].float().reshape(after) + offset)


def _weight(stored: Tensors, name: str, shape: tuple[int, ...]) -> Source:
    """A tensor under its own name, or a weight in the form of torch's spectral norm.

    torch before 0.4.1 stored the normalised weight and no `v`; that weight is taken as it is.
    """
    original, u, v = f"{name}_orig", f"{name}_u", f"{name}_v"
    if original not in stored and u not in stored and v not in stored:
        return _reshaped(name, shape, shape)
    if name in stored and v not in stored:
        needs = {name: shape} | ({original: shape} if original in stored else {})
        needs |= {u: shape[:1]} if u in stored else {}
        return Source(needs, lambda tensors: tensors[name].float())
    needs = {original: shape, u: shape[:1], v: (math.prod(shape[1:]),)}
    return Source(needs, lambda tensors: fold_stored(tensors[original].float(), tensors[u], tensors[v]))


def _check_folded(state: Tensors, sources: Mapping[str, Source], path: Path) -> None:
    for name, source in sources.items():
        if not bool(torch.isfinite(state[name]).all()):
            raise UserError(f"{path} is damaged: {', '.join(source.needs)} together give no finite weight; restore it.")

"""`import-teacher --arch stylegan2-ada`: from a `network-snapshot-*.pkl` to the averaged generator (G_ema) in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from image_data.labels import ClassLabels
from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.safe_files.entries import LISTED, entry_notes, is_averaged
from runtime.safe_files.snapshot_pickle import SavedModule, Snapshot, read_snapshot
from runtime.safe_files.state_dicts import check_tensors, open_checkpoint
from teacher_sampler.importers.registry import (
    IMPORTERS,
    ImportedTeacher,
    ImportRequest,
    class_label_names,
    psi_truncation,
)
from teacher_sampler.networks.stylegan2 import (
    ACTIVATION_GAIN,
    RESAMPLE_TAPS,
    StyleGAN2Generator,
    block_sizes,
    resample_filter,
)

ARCHITECTURE = "stylegan2-ada"
MOST_FEATURES = 1 << 16
FILTER_TOLERANCE = 1e-6
_TORCH_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # how the old files of torch.save begin

# What the snapshot may say without a difference in float32: precision, memory layout, training.
_WITHOUT_EFFECT = {"num_fp16_res", "fp16_channels_last", "w_avg_beta", "fused_modconv_default"}
# Arguments of the synthesis network, which the stylegan3 program gives to the generator itself.
_SYNTHESIS = (
    "channel_base", "channel_max", "num_fp16_res", "architecture", "resample_filter", "conv_clamp",
    "fp16_channels_last", "fused_modconv_default", "use_noise", "activation",
)  # fmt: skip
_LATER_DEFAULTS = {"conv_clamp": 256}  # of the stylegan3 program


@IMPORTERS.register(ARCHITECTURE)
def import_stylegan2_ada(request: ImportRequest) -> ImportedTeacher:
    """The teacher in a snapshot.  UserError naming the file or option where it is not one that can be rebuilt."""
    _refuse_torch_file(request.file)
    snapshot = read_snapshot(request.file)
    entry, generator = _chosen(snapshot, request.entry)
    args, kwargs = generator.state.get("_init_args", ()), generator.state.get("_init_kwargs")
    if type(kwargs) is not dict or type(args) is not tuple or args:
        raise UserError(f"{snapshot.path} does not say how its generator was made; give an unchanged snapshot.")
    if "magnitude_ema_beta" in kwargs or generator.has_inner("SynthesisInput"):
        raise UserError(
            f"{snapshot.path} is a StyleGAN3 network, which is not supported; export it to ONNX or torch.export and "
            f"import that."
        )
    # Only the stylegan3 program's StyleGAN2 blocks remember this setting.
    later = generator.inner_says("SynthesisBlock", "fused_modconv_default")
    arguments, lr_multiplier = read_arguments(kwargs, snapshot.path, later)
    tensors = snapshot.tensors(generator)
    expected = expected_shapes(arguments)
    check_tensors(tensors, expected, snapshot.path)
    _check_filters(tensors, snapshot.path)
    arguments["noise_mode"] = request.noise_mode or "const"
    network = StyleGAN2Generator(**arguments)
    network.load_state_dict(convert(tensors, arguments, lr_multiplier))
    truncation = psi_truncation(request)
    if truncation:
        network.truncate(**truncation)
    classes = arguments["label_classes"]
    names = class_label_names(request, max(1, classes))
    if not classes and request.class_names is None:
        names = ("all",)
    return ImportedTeacher(
        architecture=ARCHITECTURE,
        arguments=arguments,
        resolution_px=arguments["resolution_px"],
        channels=arguments["channels"],
        label_space=ClassLabels(names),
        latent={"distribution": "normal", "dimension": arguments["latent_dim"]},
        truncation=truncation,
        network=network.eval(),
        notes={**_notes(snapshot), **entry_notes(entry, [name for name in snapshot.modules() if name != entry])},
    )


def _refuse_torch_file(path: Path) -> None:
    """UserError naming the entries of a file of torch.save, which no snapshot is."""
    with path.open("rb") as file:
        head = file.read(14)
    if head[:2] != b"PK" and head != _TORCH_MAGIC:
        return
    try:
        with open_checkpoint(path) as checkpoint:
            content = checkpoint.content
            names = list(content) if isinstance(content, Mapping) else []
    except UserError:
        names = []
    shown = f" ({', '.join(printable(name, 60) for name in names[:LISTED])})" if names else ""
    raise UserError(
        f"{path} is a torch file of another program{shown}, not a StyleGAN2-ADA snapshot; give a "
        f"network-snapshot-*.pkl, or export the generator to ONNX or torch.export and import that."
    )


def _chosen(snapshot: Snapshot, wanted: str | None) -> tuple[str, SavedModule]:
    """The averaged generator, whatever its name, or the entry that the user asks for.

    UserError where there is none, or several that could be meant.
    """
    generators = {name: module for name, module in snapshot.modules().items() if module.class_name == "Generator"}
    if wanted is not None:
        if wanted not in generators:
            raise UserError(
                f"--entry {printable(wanted)}: {snapshot.path} has {_listed(generators)}; give one of these."
            )
        return wanted, generators[wanted]
    averaged = [name for name in generators if is_averaged(name)]
    choice = averaged or list(generators)
    if not choice:
        snapshot.module("G_ema", "Generator")  # says what is wrong
    if len(choice) != 1 or not averaged:
        kind = "several averaged generators" if averaged else "no averaged generator"
        raise UserError(
            f"{snapshot.path} has {kind} ({_listed(generators)}); choose one with --entry {printable(choice[0])}."
        )
    return choice[0], generators[choice[0]]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(printable, list(names)[:LISTED])) or "no generator"


def read_arguments(kwargs: Mapping[str, Any], source: Path, flat_program: bool = False) -> tuple[dict[str, Any], float]:
    """The published generator's arguments as those of StyleGAN2Generator, and the mapping's learning-rate multiplier.

    Absent ones get the published defaults of their program; `flat_program`: it is the stylegan3 one.
    UserError naming `source` and the argument that cannot be honoured.
    """
    outer = _Arguments(kwargs, source)
    latent_dim, w_dim = outer.whole("z_dim"), outer.whole("w_dim")
    classes = outer.whole("c_dim", least=0)
    resolution_px, channels = outer.whole("img_resolution"), outer.whole("img_channels")
    mapping = _Arguments(outer.take("mapping_kwargs", {}), source)
    nested = outer.take("synthesis_kwargs", None)
    # The stylegan3 program gives the synthesis network's arguments to the generator itself, and clamps at 256 unless
    # the arguments say otherwise; StyleGAN2-ADA nests them and does not clamp.
    flat = {name: outer.left.pop(name) for name in _SYNTHESIS if name in outer.left}
    if nested is not None and flat:
        raise outer.wrong(next(iter(flat)), "stands beside synthesis_kwargs, so it cannot be told which holds")
    later = nested is None and (flat_program or bool(flat))
    synthesis = _Arguments({**_LATER_DEFAULTS, **flat} if later else nested or {}, source)
    arguments = {
        "resolution_px": resolution_px,
        "channels": channels,
        "latent_dim": latent_dim,
        "label_classes": classes,
        "w_dim": w_dim,
        "mapping_layers": mapping.whole("num_layers", 8),
        "mapping_width": mapping.whole("layer_features", w_dim),
        "label_dim": mapping.whole("embed_features", w_dim) if classes else w_dim,
        "channel_base": synthesis.whole("channel_base", 32768, most=1 << 20),
        "channel_max": synthesis.whole("channel_max", 512),
        "conv_clamp": synthesis.positive("conv_clamp", None),
        "use_noise": synthesis.only("use_noise", True, (True, False)),
    }
    try:
        block_sizes(resolution_px)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if arguments["channel_base"] < resolution_px:
        raise UserError(f"{source} has channel_base {arguments['channel_base']}, which leaves no channels; restore it.")
    lr_multiplier = mapping.positive("lr_multiplier", 0.01)
    for part in (mapping, synthesis):
        part.only("activation", "lrelu", ("lrelu",))
    synthesis.only("architecture", "skip", ("skip",))
    taps = synthesis.take("resample_filter", list(RESAMPLE_TAPS))
    if type(taps) is not list or [tap for tap in taps if type(tap) in (int, float)] != list(RESAMPLE_TAPS):
        raise UserError(f"{source} has another filter than [1, 3, 3, 1], so its network cannot be rebuilt here.")
    for part in (outer, mapping, synthesis):
        part.done()
    return arguments, float(lr_multiplier or 0.0)


class _Arguments:
    """Takes arguments out of a dictionary from a file, each checked, and refuses what is left."""

    def __init__(self, arguments: Any, source: Path) -> None:
        if not isinstance(arguments, Mapping):
            raise UserError(f"{source} has generator arguments of an unknown form; give an unchanged snapshot.")
        self.left, self.source = dict(arguments), source

    def take(self, name: str, default: Any) -> Any:
        """The argument, or the default where it is absent; None stands for absent."""
        value = self.left.pop(name, None)
        return default if value is None else value

    def whole(self, name: str, default: int | None = None, least: int = 1, most: int = MOST_FEATURES) -> int:
        """A whole number from `least` to `most`."""
        value = self.take(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least} to {most}")
        return value

    def positive(self, name: str, default: float | None) -> float | None:
        """A finite number above 0, or the default."""
        value = self.take(name, default)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise self.wrong(name, "must be a number above 0")
        return float(value)

    def only(self, name: str, default: Any, known: tuple[Any, ...]) -> Any:
        """One of a few values."""
        value = self.take(name, default)
        if type(value) is not type(default) or value not in known:
            listed = " or ".join(str(choice) for choice in known)
            raise self.wrong(name, f"must be {listed}; other networks cannot be rebuilt here")
        return value

    def done(self) -> None:
        """UserError where an argument is left that nobody took."""
        for name in sorted(str(name) for name in self.left.keys() - _WITHOUT_EFFECT):
            raise self.wrong(name, "is unknown; it may change the images")

    def wrong(self, name: str, why: str) -> UserError:
        """The error of an argument that cannot be honoured."""
        shown = ascii(name)[1:-1][:60]
        return UserError(f"{self.source}: the generator's argument {shown} {why}; give a StyleGAN2-ADA snapshot.")


def expected_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The published names and shapes of the tensors of such a generator."""
    w_dim, classes, channels = (arguments[name] for name in ("w_dim", "label_classes", "channels"))
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (w_dim,)}
    inputs = arguments["latent_dim"]
    if classes:
        shapes |= {
            "mapping.embed.weight": (arguments["label_dim"], classes),
            "mapping.embed.bias": (arguments["label_dim"],),
        }
        inputs += arguments["label_dim"]
    for index in range(arguments["mapping_layers"]):
        outputs = w_dim if index == arguments["mapping_layers"] - 1 else arguments["mapping_width"]
        shapes |= {f"mapping.fc{index}.weight": (outputs, inputs), f"mapping.fc{index}.bias": (outputs,)}
        inputs = outputs

    def modulated(prefix: str, before: int, after: int, taps: int) -> None:
        shapes[f"{prefix}.affine.weight"], shapes[f"{prefix}.affine.bias"] = (before, w_dim), (before,)
        shapes[f"{prefix}.weight"], shapes[f"{prefix}.bias"] = (after, before, taps, taps), (after,)

    before = 0
    for size in block_sizes(arguments["resolution_px"]):
        width = min(arguments["channel_base"] // size, arguments["channel_max"])
        block = f"synthesis.b{size}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        if not before:
            shapes[f"{block}.const"] = (width, size, size)
        for layer, inputs in (("conv0", before), ("conv1", width)):
            if not inputs:
                continue
            modulated(f"{block}.{layer}", inputs, width, 3)
            shapes[f"{block}.{layer}.resample_filter"] = (4, 4)
            if arguments["use_noise"]:
                shapes[f"{block}.{layer}.noise_const"], shapes[f"{block}.{layer}.noise_strength"] = (size, size), ()
        modulated(f"{block}.torgb", width, channels, 1)
        before = width
    return shapes


def convert(
    tensors: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], lr_multiplier: float
) -> dict[str, torch.Tensor]:
    """The published state dict as that of StyleGAN2Generator, with the published run-time gains in the weights."""
    state: dict[str, torch.Tensor] = {"mapping.average": tensors["mapping.w_avg"]}
    if arguments["label_classes"]:
        weight = tensors["mapping.embed.weight"] / math.sqrt(arguments["label_classes"])
        state["mapping.embedding.weight"] = weight.T + tensors["mapping.embed.bias"]
    for index in range(arguments["mapping_layers"]):
        gain = lr_multiplier * ACTIVATION_GAIN  # a leaky ReLU is homogeneous, so its gain may come before it
        state |= _linear(tensors, f"mapping.fc{index}", f"mapping.layers.{index}", gain)
    state["blocks.0.const"] = tensors["synthesis.b4.const"]
    for index, size in enumerate(block_sizes(arguments["resolution_px"])):
        source_block, target_block = f"synthesis.b{size}", f"blocks.{index}"
        for layer in ("conv0", "conv1") if index else ("conv1",):
            source, target = f"{source_block}.{layer}", f"{target_block}.{layer}"
            state |= _linear(tensors, f"{source}.affine", f"{target}.style", 1.0)
            weight = tensors[f"{source}.weight"]
            state[f"{target}.weight"] = weight.transpose(0, 1) if layer == "conv0" else weight
            state[f"{target}.bias"] = tensors[f"{source}.bias"]
            if arguments["use_noise"]:
                state[f"{target}.noise_map"] = tensors[f"{source}.noise_const"]
                state[f"{target}.noise_strength"] = tensors[f"{source}.noise_strength"]
        source, target = f"{source_block}.torgb", f"to_image.{size}"
        weight = tensors[f"{source}.weight"].flatten(1)
        state |= _linear(tensors, f"{source}.affine", f"{target}.style", 1.0 / math.sqrt(weight.shape[1]))
        state |= {f"{target}.weight": weight, f"{target}.bias": tensors[f"{source}.bias"]}
    return state


def _linear(tensors: Mapping[str, torch.Tensor], source: str, target: str, gain: float) -> dict[str, torch.Tensor]:
    """A layer that computes x W^T gain / sqrt(inputs) + gain b, as a plain one."""
    weight = tensors[f"{source}.weight"]
    return {
        f"{target}.weight": weight * (gain / math.sqrt(weight.shape[1])),
        f"{target}.bias": tensors[f"{source}.bias"] * gain,
    }


def _check_filters(tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """The stored filters must be the one that the network has built in."""
    right = resample_filter() / resample_filter().sum()
    for name, tensor in tensors.items():
        if name.endswith(".resample_filter") and (tensor - right).abs().max() > FILTER_TOLERANCE:
            raise UserError(f"{source}: {name} is no [1, 3, 3, 1] filter, so the network cannot be rebuilt here.")


def _notes(snapshot: Snapshot) -> dict[str, Any]:
    """Whatever of the training set's description says something away from the machine of its training."""
    notes: dict[str, Any] = {"snapshot": snapshot.path.name}
    described = snapshot.entries.get("training_set_kwargs")
    if type(described) is dict:
        notes["training_set"] = {
            name: value
            for name, value in described.items()
            if name != "path" and type(name) is str and type(value) in (str, int, bool) and len(str(value)) < 200
        }
    return notes

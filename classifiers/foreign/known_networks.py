"""State dicts of networks that are known by name, whatever wrapped them and whoever named their layers.

Known are the project's own networks, plain timm models (torchvision's ResNets have the same names), and the CIFAR
ResNets and VGGs in the names of the well-known trainers (conv1, layer1.0.conv1, ..., fc; block0.0, ..., classifier).
Such a network is built here with its own strides; its weights are checked name by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from classifiers.networks import STUDENTS, build_student
from classifiers.networks.student import classifier_features
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace
from layers.backbones import TIMM_PREFIX
from layers.pointwise import with_safe_strides
from runtime.errors import UserError
from runtime.safe_files.state_dicts import check_tensors

Form = Literal["own", "timm", "cifar"]  # who named the layers
_COUNTERS = "num_batches_tracked"  # older files lack them, and nothing here reads them
_CIFAR_NAMES = {
    "resnet": (
        (r"conv1\.(\w+)", r"backbone.stem.0.\1"),
        (r"bn1\.(\w+)", r"backbone.stem.1.\1"),
        (r"layer([1-9])\.(\d+)\.conv([12])\.(\w+)", r"backbone.stages.#\1.\2.conv\3.\4"),
        (r"layer([1-9])\.(\d+)\.bn([12])\.(\w+)", r"backbone.stages.#\1.\2.norm\3.\4"),
        (r"layer([1-9])\.(\d+)\.(?:downsample|shortcut)\.([01])\.(\w+)", r"backbone.stages.#\1.\2.shortcut.\3.\4"),
        (r"(?:fc|linear|classifier)\.(\w+)", r"head.\1"),
    ),
    "vgg": (
        (r"block(\d)\.([01])\.(\w+)", r"backbone.blocks.@\1.\2.\3"),
        (r"(?:classifier|fc|linear)\.(\w+)", r"head.\1"),
    ),
}
_OWN = ("backbone.stem.", "backbone.stages.", "backbone.blocks.", "backbone.model.")
_FEATURES = {"resnet8": 64, "resnet20": 64, "vgg8": 512, "vgg8_quarter": 128}  # at width 1
_LEAST_TENSORS = 4  # fewer are a head or a loss
_VGG_LARGEST_PX = 64  # from there on the original's pools and ours differ


class OwnCore(nn.Module):
    """One of the project's networks without its own normalisation: float32 N x C x H x W -> N x outputs."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.feature_paths = classifier_features(backbone)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(pixels))


@dataclass(frozen=True)
class KnownNetwork:
    """What decides the network that is built; the card's `network`."""

    name: str
    form: Form
    width: float
    channels: int
    resolution_px: int
    outputs: int
    continuous: bool

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return {"form": self.form, "width": self.width, "continuous": self.continuous}

    def build(self) -> nn.Module:
        """The network with random weights, in evaluation mode; UserError where there is none of this kind."""
        if self.form == "timm":
            return with_safe_strides(_plain_timm(self)).eval()
        space: LabelSpace = ContinuousLabels(0.0, 1.0, dimension=self.outputs)
        if not self.continuous or self.form == "cifar":
            space = ClassLabels(tuple(str(index) for index in range(self.outputs)))
        student = build_student(self.name, self.channels, self.resolution_px, space, width=self.width)
        core = OwnCore(student.backbone, student.head)
        if self.form == "cifar" and self.name.startswith("resnet"):
            stem: Any = core.backbone.stem
            stem[0].stride = (1, 1)  # ours strides from 64 px on
        return core.eval()


def _plain_timm(network: KnownNetwork) -> nn.Module:
    import timm  # slow to import

    name = network.name.removeprefix(TIMM_PREFIX)
    if network.width != 1.0:
        raise UserError(f"--network-width: {network.name} has its width in its name; leave it out.")
    if not timm.is_model(name):
        raise UserError(f"timm knows no model {name[:80]!r}; `timm.list_models()` prints the names it has.")
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": network.outputs, "in_chans": network.channels}
    try:
        try:
            return timm.create_model(name, **arguments, img_size=network.resolution_px)
        except TypeError:  # most take any size
            return timm.create_model(name, **arguments)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise UserError(
            f"{network.name} cannot be built for {network.channels} x {network.resolution_px} x "
            f"{network.resolution_px} images ({reason}); check --resolution and --channels."
        ) from error


def is_classifier(arch: str) -> Callable[[Collection[str]], bool]:
    """Whether the tensors of these names may be such a network: its last layer is there, and more than that."""
    heads = {"head.weight", "fc.weight", "linear.weight", "classifier.weight"}
    heads |= set(_timm_heads(arch)) if arch.startswith(TIMM_PREFIX) else set()
    return lambda names: (
        len(names) > _LEAST_TENSORS and any(name in heads or re.fullmatch(r"head\.\d+\.weight", name) for name in names)
    )


def known_network(
    arch: str,
    tensors: Mapping[str, torch.Tensor],
    source: Path,
    *,
    width: float | None,
    channels: int,
    resolution_px: int,
    continuous: bool,
) -> tuple[KnownNetwork, nn.Module]:
    """(what it is, the network with these weights in evaluation mode); UserError listing what does not fit.

    tensors: name -> tensor, wrappers' prefixes removed.  `width`: None where its last layer shall tell.
    """
    form: Form = "own"
    if not any(name.startswith(_OWN) for name in tensors):
        form = "timm" if arch.startswith(TIMM_PREFIX) else "cifar"
    renamed = _renamed(arch, tensors, resolution_px, source) if form == "cifar" else dict(tensors)
    outputs = _outputs(renamed, form, arch, source)
    found = _width(arch, renamed) if width is None else width
    network = KnownNetwork(arch, form, found, channels, resolution_px, outputs, continuous)
    core = network.build()
    load_weights(core, renamed, source, arch)
    return network, core


def load_weights(core: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path, arch: str) -> None:
    """Copy the weights, in float32; UserError listing names that are missing, surplus or misshapen."""
    wanted = {name: tuple(value.shape) for name, value in core.state_dict().items() if not name.endswith(_COUNTERS)}
    given = {name: value for name, value in tensors.items() if not name.endswith(_COUNTERS)}
    try:
        check_tensors(given, wanted, source)
    except UserError as error:
        reason = str(error).rstrip(".").replace("this kind of teacher", f"--arch {arch}")
        raise UserError(
            f"{reason}; check --network-width, --channels and --resolution, or give a network of another design as "
            f"--arch onnx or torch-export."
        ) from error
    core.load_state_dict({name: value.to(torch.float32) for name, value in given.items()}, strict=False)


def _outputs(tensors: Mapping[str, torch.Tensor], form: Form, arch: str, source: Path) -> int:
    """Rows of the last layer."""
    if form == "timm":
        names = _timm_heads(arch)
    else:
        names = [
            "head.weight",
            *sorted((name for name in tensors if re.fullmatch(r"head\.\d+\.weight", name)), reverse=True),
        ]
    for name in names:
        if name in tensors and tensors[name].ndim >= 1:
            return int(tensors[name].shape[0])
    some = ", ".join(sorted(tensors)[:4])[:160]
    raise UserError(
        f"{source} does not fit --arch {arch}: its last layer {names[0]} is missing, it has {some}, ...; give the "
        f"state dict of such a classifier, or its program as --arch onnx."
    )


def _width(arch: str, tensors: Mapping[str, torch.Tensor]) -> float:
    """From the number of features that the head reads."""
    first = next((tensors[name] for name in ("head.weight", "head.0.weight") if name in tensors), None)
    if arch not in _FEATURES or first is None or first.ndim != 2:
        return 1.0
    return int(first.shape[1]) / _FEATURES[arch]


def _timm_heads(arch: str) -> list[str]:
    import timm

    name = arch.removeprefix(TIMM_PREFIX)
    try:
        heads = timm.get_pretrained_cfg_value(name, "classifier") if timm.is_model(name) else None
    except (RuntimeError, KeyError):
        heads = None
    first = heads[0] if isinstance(heads, list | tuple) else heads
    return [f"{head}.weight" for head in dict.fromkeys((first, "fc", "classifier", "head", "head.fc")) if head]


def _renamed(
    arch: str, tensors: Mapping[str, torch.Tensor], resolution_px: int, source: Path
) -> dict[str, torch.Tensor]:
    """The tensors under the project's names; names without a counterpart stay, to be listed as surplus."""
    family = next((family for family in _CIFAR_NAMES if arch.startswith(family)), None)
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        found[_own_name(name, _CIFAR_NAMES.get(str(family), ()))] = value
    if family != "vgg":
        return found
    if resolution_px > _VGG_LARGEST_PX:
        raise UserError(
            f"{source}: {arch} pools other than here above {_VGG_LARGEST_PX} px; give it as --arch onnx or "
            f"torch-export."
        )
    return _without_biases(_placed(found, resolution_px))


def _own_name(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            renamed = re.sub(pattern, replacement, name)
            return re.sub(r"#(\d)", lambda found: str(int(found.group(1)) - 1), renamed)
    return name


def _placed(tensors: Mapping[str, torch.Tensor], resolution_px: int) -> dict[str, torch.Tensor]:
    """Block and layer as places in the project's one sequence: three layers a block, and a pool after some."""
    pools = 4 if resolution_px >= 64 else 3  # as layers.backbones has them
    place: Callable[[re.Match[str]], str] = lambda found: str(  # noqa: E731
        3 * int(found.group(1)) + min(int(found.group(1)), pools) + int(found.group(2))
    )
    return {re.sub(r"@(\d)\.([01])", place, name): value for name, value in tensors.items()}


def _without_biases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A convolution's bias before a batch norm shifts the norm's mean and nothing else."""
    found = dict(tensors)
    for number in range(len(tensors)):
        bias, mean = f"backbone.blocks.{number}.bias", f"backbone.blocks.{number + 1}.running_mean"
        weight = found.get(f"backbone.blocks.{number}.weight")
        if weight is not None and weight.ndim == 4 and bias in found and mean in found:
            found[mean] = found[mean] - found.pop(bias)
    return found


def known_names() -> str:
    """For messages."""
    return f"onnx, torch-export, {', '.join(STUDENTS)} or timm:NAME"

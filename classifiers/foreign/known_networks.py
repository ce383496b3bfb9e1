"""State dicts of networks that are known by name, whatever wrapped them and whoever named their layers.

Known are the project's own networks, plain timm models (torchvision's ResNets have the same names), and the published
networks of `layers.trunks` in the names of their trainers.  Weights are checked name by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from classifiers.foreign.published_names import is_last_layer, own_names
from classifiers.networks import STUDENTS
from classifiers.networks.older import check_not_older
from classifiers.networks.student import classifier_features
from layers.heads import HEADS, REGRESSION_HIDDEN
from layers.pointwise import with_safe_strides
from layers.trunks import TIMM_PREFIX, TRUNKS, build_trunk
from runtime.errors import UserError
from runtime.safe_files.state_dicts import check_tensors

Form = Literal["own", "timm", "cifar"]  # who named the layers
_COUNTERS = "num_batches_tracked"  # older files lack them, and nothing here reads them
_LARGEST_HIDDEN = 1 << 16
_LEAST_TENSORS = 4  # fewer are a head or a loss
_VGG_LARGEST_PX = 64  # above it the original's pools and ours differ


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
    """What decides the network that is built; the card's `network`.

    hidden: units in each hidden layer of a regression head; 0: its head is one layer.
    """

    name: str
    form: Form
    width: float
    channels: int
    resolution_px: int
    outputs: int
    continuous: bool
    hidden: int

    @staticmethod
    def of_card(
        arguments: Mapping[str, Any], name: str, channels: int, resolution_px: int, outputs: int
    ) -> KnownNetwork:
        """KeyError, TypeError or ValueError where the card's `arguments` say something else."""
        if arguments["form"] not in get_args(Form):
            raise ValueError(f"its network is of the form {str(arguments['form'])[:40]!r}")
        form, continuous = arguments["form"], bool(arguments["continuous"])
        hidden = int(arguments.get("hidden", REGRESSION_HIDDEN if continuous and form == "own" else 0))
        width = float(arguments["width"])
        if not 0 <= hidden <= _LARGEST_HIDDEN:
            raise ValueError(f"its head has {hidden} hidden units")
        return KnownNetwork(name, form, width, channels, resolution_px, outputs, continuous, hidden)

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return {"form": self.form, "width": self.width, "continuous": self.continuous, "hidden": self.hidden}

    def build(self) -> nn.Module:
        """The network with random weights, in evaluation mode; UserError where there is none of this kind."""
        if self.form == "timm":
            return with_safe_strides(_plain_timm(self)).eval()
        choice = STUDENTS.choose(self.name, {"width": self.width})
        trunk = STUDENTS.build(choice, in_channels=self.channels, resolution_px=self.resolution_px)
        if self.hidden:
            head = HEADS.get("regression")(trunk.feature_dim, self.outputs, self.hidden)
        else:
            head = HEADS.get("linear")(trunk.feature_dim, self.outputs)
        return OwnCore(trunk, head).eval()


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
    heads = set(_timm_heads(arch)) if arch.startswith(TIMM_PREFIX) else set()
    return lambda names: len(names) > _LEAST_TENSORS and any(name in heads or is_last_layer(name) for name in names)


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
    if not all(name.startswith(("backbone.", "head.")) for name in tensors):
        form = "timm" if arch.startswith(TIMM_PREFIX) else "cifar"
    if form == "cifar" and arch in TRUNKS and TRUNKS[arch].family == "vgg" and resolution_px > _VGG_LARGEST_PX:
        raise UserError(
            f"{source}: {arch} pools other than here above {_VGG_LARGEST_PX} px; give it as --arch onnx or "
            f"torch-export."
        )
    renamed = own_names(tensors, TRUNKS[arch].family if arch in TRUNKS else "") if form == "cifar" else dict(tensors)
    outputs = _outputs(renamed, form, arch, source)
    hidden = int(renamed["head.3.weight"].shape[0]) if {"head.3.weight", "head.6.weight"} <= set(renamed) else 0
    found = _width(arch, renamed, resolution_px) if width is None else width
    network = KnownNetwork(arch, form, found, channels, resolution_px, outputs, continuous, hidden)
    core = network.build()
    load_weights(core, renamed, source, arch)
    return network, core


def load_weights(core: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path, arch: str) -> None:
    """Copy the weights, in float32; UserError listing names that are missing, surplus or misshapen."""
    wanted = {name: tuple(value.shape) for name, value in core.state_dict().items() if not name.endswith(_COUNTERS)}
    given = {name: value for name, value in tensors.items() if not name.endswith(_COUNTERS)}
    check_not_older(source, given, "train it again with train-classifier")
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


def _width(arch: str, tensors: Mapping[str, torch.Tensor], resolution_px: int) -> float:
    """From the number of features that the head reads."""
    first = next((tensors[name] for name in ("head.weight", "head.0.weight") if name in tensors), None)
    if arch not in TRUNKS or not TRUNKS[arch].scales or first is None or first.ndim != 2:
        return 1.0
    with torch.device("meta"):
        published: Any = build_trunk(arch, 3, resolution_px)
    return int(first.shape[1]) / int(published.feature_dim)


def _timm_heads(arch: str) -> list[str]:
    import timm

    name = arch.removeprefix(TIMM_PREFIX)
    try:
        heads = timm.get_pretrained_cfg_value(name, "classifier") if timm.is_model(name) else None
    except (RuntimeError, KeyError):
        heads = None
    first = heads[0] if isinstance(heads, list | tuple) else heads
    return [f"{head}.weight" for head in dict.fromkeys((first, "fc", "classifier", "head", "head.fc")) if head]


def known_names() -> str:
    """For messages."""
    return f"onnx, torch-export, {', '.join(STUDENTS)} or timm:NAME"

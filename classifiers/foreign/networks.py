"""A foreign classifier at work: pixels are brought into its form, and its outputs into the form that all rooms read.

Inputs are resized first where the user's images have another size, then normalised as stated.  Outputs become logits
of the user's classes, or values in [0, 1] of the stated label range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from classifiers.foreign.normalisation import Normalisation
from image_data.labels import ContinuousLabels
from interfaces import LabelSpace
from layers.features import feature_paths
from layers.trunks.timm_model import timm_feature_paths
from runtime.errors import UserError
from runtime.safe_files.program import Program, pieces

OutputForm = Literal["logits", "probabilities", "values", "unit"]
OUTPUT_FORMS: tuple[str, ...] = get_args(OutputForm)
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries turn colour into grey


@dataclass(frozen=True)
class Convention:
    """How a foreign classifier is called and read; the card's `arguments`.

    `channels`, `resolution_px`: of the images that it takes.  `output`: logits or probabilities of classes, values in
    the user's units, or unit: 0 and 1 stand for the ends of the label range.  `outputs`: how many it gives an image.
    `sources`: for each of the user's classes, which of the classifier's are merged into it; None: the same classes.
    """

    normalisation: Normalisation
    channels: int
    resolution_px: int
    output: OutputForm
    outputs: int
    channels_last: bool = False
    sources: tuple[tuple[int, ...], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return {
            "normalisation": self.normalisation.to_json(),
            "channels": self.channels,
            "resolution_px": self.resolution_px,
            "output": self.output,
            "outputs": self.outputs,
            "channels_last": self.channels_last,
            "sources": None if self.sources is None else [list(group) for group in self.sources],
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Convention:
        """The inverse; KeyError, TypeError or ValueError where a card says something else."""
        if found["output"] not in OUTPUT_FORMS:
            raise ValueError(f"its output is {found['output']!r}")
        groups = found["sources"]
        sources = None if groups is None else tuple(tuple(int(index) for index in group) for group in groups)
        outputs = int(found["outputs"])
        if any(not group or not all(0 <= index < outputs for index in group) for group in sources or ()):
            raise ValueError("its classes are made from others than it has")
        return Convention(
            Normalisation.from_json(found["normalisation"]),
            int(found["channels"]),
            int(found["resolution_px"]),
            found["output"],
            outputs,
            bool(found["channels_last"]),
            sources,
        )


class ForeignNetwork(nn.Module):
    """uint8 N x C x H x W -> logits N x classes, or encoded labels N x d, as the project's own networks give."""

    def __init__(self, core: nn.Module, convention: Convention, label_space: LabelSpace) -> None:
        super().__init__()
        self.core, self.convention, self.label_space = core, convention, label_space

    @property
    def has_insides(self) -> bool:
        """Whether its features can be read; a program shows its outputs alone."""
        return not isinstance(self.core, ProgramCore)

    @property
    def feature_paths(self) -> dict[str, str]:
        """Name -> module path of what a method can read; plain timm models name theirs as `layers.trunks` does."""
        known = feature_paths(self.core) or timm_feature_paths(self.core)
        return {name: f"core.{path}" for name, path in known.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.read(self.raw(images))

    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """float32 N x outputs, as the classifier gives them; UserError where it gives another number."""
        taken = self.convention
        if not len(images):
            return torch.empty(0, taken.outputs, device=images.device)
        pixels = reshaped(images, taken.channels, taken.resolution_px)
        found = self.core(taken.normalisation(pixels)).float()
        found = found.reshape(len(found), -1) if len(found) == len(images) else found
        if tuple(found.shape) != (len(images), taken.outputs):
            raise UserError(
                f"the classifier gives {tuple(found.shape)} for {len(images)} images where its card says "
                f"{(len(images), taken.outputs)}; import it again."
            )
        return found

    def read(self, found: torch.Tensor) -> torch.Tensor:
        """The classifier's outputs as logits of the user's classes, or as encoded labels."""
        form, space = self.convention.output, self.label_space
        if form == "values" and isinstance(space, ContinuousLabels):
            return (found - space.low) / (space.high - space.low)
        if form == "probabilities":
            found = found.clamp_min(torch.finfo(torch.float32).tiny).log()
        if self.convention.sources is not None:
            found = torch.stack([found[:, list(group)].logsumexp(dim=1) for group in self.convention.sources], dim=1)
        return found


class ProgramCore(nn.Module):
    """A program as a network: float32 N x C x H x W -> its output, in the pieces that it takes."""

    def __init__(self, program: Program, channels_last: bool) -> None:
        super().__init__()
        self.program, self.channels_last = program, channels_last

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        (slot,) = self.program.inputs
        values = (pixels.permute(0, 2, 3, 1) if self.channels_last else pixels).contiguous().to(slot.dtype)
        found = []
        for piece, count in pieces({slot.name: values}, len(values), self.program.batch):
            output = self.program(piece)
            if not output.ndim or len(output) != len(piece[slot.name]):
                raise UserError(
                    f"the classifier's program gives an output of shape {tuple(output.shape)} for "
                    f"{len(piece[slot.name])} images; export it with one row an image."
                )
            found.append(output[:count].to(pixels.device))
        return torch.cat(found)


def reshaped(images: torch.Tensor, channels: int, resolution_px: int) -> torch.Tensor:
    """Pixels 0 to 255 as float32 in another size (bicubic with antialiasing, whole levels) and in grey or colour."""
    pixels = images.float()
    if pixels.shape[-1] != resolution_px:
        pixels = F.interpolate(pixels, size=(resolution_px, resolution_px), mode="bicubic", antialias=True)
        pixels = pixels.round().clamp(0.0, 255.0)
    if pixels.shape[1] == 3 and channels == 1:
        return (pixels * pixels.new_tensor(_GREY_WEIGHTS)[None, :, None, None]).sum(dim=1, keepdim=True).round()
    return pixels.expand(-1, channels, -1, -1) if pixels.shape[1] == 1 else pixels

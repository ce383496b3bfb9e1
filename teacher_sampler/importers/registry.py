"""What an importer is: from a foreign file to a card and a network (or files), and how it asks for what is missing.

Nothing is written here and by no importer: `import_teacher` writes the folder once an importer has returned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from interfaces import LabelSpace
from runtime.errors import UserError
from runtime.registry import Registry
from runtime.safe_files import printable
from runtime.safe_files.plain import check_regular

_ADDRESS = re.compile(r"(?i)(https?|ftp|s3|gs|hf)://?")
_WEIGHTS = (".pth", ".pt", ".pkl", ".ckpt", ".bin", ".safetensors", ".onnx", ".pt2")


@dataclass(frozen=True)
class ImportRequest:
    """What the user says of a foreign teacher.  None: infer it, or ask for it where that is impossible."""

    checkpoint: str  # a path, or a URL where the kind allows one
    label_embedding: Path | None = None  # CcGAN: the file of the label embedding network (y2h)
    label_range: tuple[float, float] | None = None  # continuous labels: what 0 and 1 stand for, in the user's units
    label_unit: str = ""
    class_names: tuple[str, ...] | None = None
    truncation: float | None = None
    truncation_cutoff: int | None = None
    noise_mode: Literal["const", "random", "none"] | None = None
    label_network: Path | None = None  # CcGAN: the file of the network from images to labels (x2y), to check y2h by
    final_relu: bool | None = None  # CcGAN: y2h ends in a ReLU, which its file does not tell; None: yes, or x2y tells
    label_input: Literal["index", "one-hot", "value"] | None = None  # programs (ONNX, torch.export)
    output_range: tuple[float, float] | None = None  # programs: values of black and white
    resolution_px: int | None = None
    channels: int | None = None
    augmentations: tuple[str, ...] = ()
    licence: str = "unknown"
    entry: str | None = None  # which of the networks in the checkpoint; None: the averaged one

    @property
    def path(self) -> Path:
        """The checkpoint as an existing file or folder; UserError where it is not there, or an address."""
        if _ADDRESS.match(self.checkpoint):
            raise UserError(f"--checkpoint {printable(self.checkpoint)} is an address; download it first.")
        path = Path(self.checkpoint)
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise UserError(
                f"--checkpoint {printable(path)} does not exist; give the path of the teacher's file."
            ) from error
        return path

    @property
    def file(self) -> Path:
        """The checkpoint as a regular file; UserError where it is a folder, a pipe, a device or a socket."""
        path = self.path
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir() if entry.suffix in _WEIGHTS and entry.is_file())
            averaged = next((name for name in names if "ema" in name.lower()), names[0] if names else "")
            hint = f"the {averaged} in it" if averaged else "the file of weights in it, e.g. G_ema.pth"
            raise UserError(f"--checkpoint {printable(path)} is a folder; give {printable(hint)}.")
        check_regular(path, "give the teacher's own file")
        return path


@dataclass(frozen=True)
class ImportedTeacher:
    """A teacher that is ready to be written: its network in eval mode with its weights, or a writer of its files.

    `write(folder) -> hexadecimal SHA-256 of what it wrote`; used where `network` is None.
    """

    architecture: str  # a name in TEACHERS, or a black box that `loaders.folder` knows
    arguments: Mapping[str, Any]
    resolution_px: int
    channels: int
    label_space: LabelSpace
    latent: Mapping[str, Any]
    truncation: Mapping[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None
    write: Callable[[Path], str] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)  # goes into the card's `trained_on`
    licence: str = "unknown"  # what the source says; the user's word stands above it
    augmentations: tuple[str, ...] = ()


Importer = Callable[[ImportRequest], ImportedTeacher]

IMPORTERS: Registry[Importer] = Registry("kind of teacher")


def require(arch: str, missing: Mapping[str, str]) -> None:
    """UserError naming every option in `missing` (flag -> what it is for) in one sentence; none where it is empty."""
    if missing:
        listed = "; ".join(f"{flag} ({why})" for flag, why in missing.items())
        raise UserError(f"--arch {arch} cannot tell everything from the checkpoint; give {listed}.")


def no_truncation(arch: str, request: ImportRequest) -> None:
    """UserError where a truncation is asked of a family that has none."""
    if request.truncation is not None or request.truncation_cutoff is not None:
        raise UserError(f"--truncation: {arch} has none; leave it out.")


def std_truncation(request: ImportRequest) -> dict[str, Any]:
    """BigGAN's truncation: the standard deviation of the latents.  UserError where it is no positive number."""
    if request.truncation_cutoff is not None:
        raise UserError("--truncation-cutoff belongs to stylegan2-ada; leave it out.")
    if request.truncation is None:
        return {}
    if not request.truncation > 0:
        raise UserError(f"--truncation {request.truncation}: the latents' standard deviation must be above 0.")
    return {"std": float(request.truncation)}


def psi_truncation(request: ImportRequest) -> dict[str, Any]:
    """StyleGAN2's truncation: how far w is pulled to its average, and in how many layers.  UserError where wrong."""
    if request.truncation is None:
        if request.truncation_cutoff is not None:
            raise UserError("--truncation-cutoff says in how many layers --truncation acts; give both or neither.")
        return {}
    if not (math.isfinite(request.truncation) and request.truncation >= 0):
        raise UserError(f"--truncation {request.truncation}: psi must be 0 or more; 1 leaves the images as they are.")
    truncation: dict[str, Any] = {"psi": float(request.truncation)}
    return truncation if request.truncation_cutoff is None else {**truncation, "cutoff": int(request.truncation_cutoff)}


def class_label_names(request: ImportRequest, count: int) -> tuple[str, ...]:
    """The names of `count` classes; UserError where the user named another number of them."""
    if request.class_names is None:
        return tuple(str(index) for index in range(count))
    if len(request.class_names) != count:
        raise UserError(
            f"--class-names gives {len(request.class_names)} names and the teacher has {count} classes; name each once."
        )
    check_names(request.class_names)
    return request.class_names


def check_names(names: tuple[str, ...]) -> None:
    """UserError where a name is empty or stands twice, so that it would not tell which class is meant."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not all(name.strip() for name in names):
        what = "an empty name" if twice is None else f"the name {printable(twice)} twice"
        raise UserError(f"--class-names has {what}; give each class a name of its own.")

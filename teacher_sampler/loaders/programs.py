"""Teachers that are programs in a file (ONNX, torch.export): what is common to both.

A program takes latents and labels, or labels alone, and returns images.  Here is how labels are fed, how a block is cut
and filled up for programs of a fixed batch size, and how output values become [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from interfaces import LabelSpace, TeacherCard
from runtime.errors import UserError
from runtime.seeds import sample_normals

LabelForm = Literal["index", "one-hot", "value"]
LABEL_FORMS = ("index", "one-hot", "value")


@dataclass(frozen=True)
class ProgramInput:
    """One input: `sizes` of all dimensions, the batch first, None where any size will do."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | None, ...]

    @property
    def width(self) -> int | None:
        """Numbers for each image: 1 for N, z for N x z, N x z x 1 and N x z x 1 x 1; None where that is unknown."""
        if len(self.sizes) > 2 and any(size != 1 for size in self.sizes[2:]):
            return None
        return 1 if len(self.sizes) == 1 else self.sizes[1]

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.name} ({kind} {' x '.join('N' if size is None else str(size) for size in self.sizes)})"


class Program(Protocol):
    """A program that is ready to be called.  `batch`: the smallest and the largest number of images that it takes."""

    @property
    def inputs(self) -> tuple[ProgramInput, ...]: ...

    @property
    def batch(self) -> tuple[int, int | None]: ...

    def classes(self, name: str) -> int | None:
        """Rows of the embedding that the input of this name looks up; None where there is none to be seen."""
        ...

    def __call__(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The program's output, N x C x H x W; UserError where it fails."""
        ...


@dataclass(frozen=True)
class CallConvention:
    """How a program is called; the card's `arguments`.

    `latents`, `labels`: names of inputs.  `label_form`: the class's index, a one-hot vector, or the value in [0, 1].
    `black`, `white`: output values.
    """

    latents: str | None
    labels: str
    label_form: LabelForm
    black: float = -1.0
    white: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> CallConvention:
        """The inverse; ValueError or TypeError where a card says something else."""
        convention = CallConvention(**found)
        if convention.label_form not in LABEL_FORMS:
            raise ValueError(f"label_form {convention.label_form!r} is none of {', '.join(LABEL_FORMS)}")
        if not float(convention.black) < float(convention.white):
            raise ValueError("black is not below white")
        return convention


def program_values(
    program: Program, convention: CallConvention, space: LabelSpace, latents: torch.Tensor | None, labels: np.ndarray
) -> dict[str, torch.Tensor]:
    """What the program is given: each input in its type and with as many dimensions as it has.

    `latents` float32 N x z (or None), `labels` N (or N x d) in the user's units.
    """
    encoded = space.encode(labels)
    if convention.label_form == "one-hot":
        encoded = torch.nn.functional.one_hot(encoded, space.width)
    given = {convention.labels: encoded}
    if convention.latents is not None and latents is not None:
        given[convention.latents] = latents
    found = {}
    for slot in program.inputs:
        values = given[slot.name]
        sizes = (len(values), slot.width or values.shape[-1], 1, 1)[: len(slot.sizes)]
        found[slot.name] = values.to(slot.dtype).reshape(sizes)
    return found


class ProgramTeacher:
    """The Teacher interface over a program.

    A program without latents has one image of each label, so each label has one candidate.
    """

    def __init__(self, card: TeacherCard, label_space: LabelSpace, program: Program, device: torch.device) -> None:
        self.card, self.label_space, self.program, self.device = card, label_space, program, device
        self.convention = CallConvention.from_json(card.arguments)
        slots = {slot.name: slot for slot in program.inputs}
        named = [name for name in (self.convention.latents, self.convention.labels) if name is not None]
        if sorted(named) != sorted(slots):
            raise ValueError(f"the program has the inputs {', '.join(map(str, program.inputs)) or 'none'}")
        if (self.convention.latents is None) != (not card.latent):
            raise ValueError("latent and arguments contradict each other")
        if self.convention.latents and slots[self.convention.latents].width != int(card.latent["dimension"]):
            raise ValueError("the latents' dimension is not the program's")

    def latents(self, keys: np.ndarray, seed: int) -> torch.Tensor | None:
        """Standard normals (times the truncation's std, where the card has one), or None."""
        if self.convention.latents is None:
            return None
        normals = sample_normals(keys, seed, "latent", int(self.card.latent["dimension"]))
        return torch.from_numpy(normals * np.float32(self.card.truncation.get("std", 1.0)))

    @torch.inference_mode()
    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        if self.convention.latents is not None and latents is None:
            raise ValueError("this program needs latents")
        values = program_values(self.program, self.convention, self.label_space, latents, labels)
        images = torch.cat([self._call(piece, count) for piece, count in self._pieces(values, len(labels))])
        scale = 2.0 / (self.convention.white - self.convention.black)
        return (images.to(self.device).float() - self.convention.black) * scale - 1.0

    def candidates(self, labels: np.ndarray) -> np.ndarray | None:
        """Without end, or one of each label where there are no latents."""
        return None if self.convention.latents is not None else np.ones(len(labels), dtype=np.int64)

    def _pieces(self, values: Mapping[str, torch.Tensor], count: int) -> list[tuple[dict[str, torch.Tensor], int]]:
        """(inputs of one call, how many of its images count): pieces of what the program takes, the last filled up."""
        smallest, largest = self.program.batch
        size = max(count, 1) if largest is None else largest
        found = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            rows = np.minimum(np.arange(start, max(stop, start + smallest)), stop - 1)
            index = torch.from_numpy(rows)
            found.append(({name: value[index] for name, value in values.items()}, stop - start))
        return found

    def _call(self, values: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
        images = self.program(values)
        rows = len(next(iter(values.values())))
        shape = (rows, self.card.channels, self.card.resolution_px, self.card.resolution_px)
        if tuple(images.shape) != shape:
            raise UserError(
                f"the program of {self.card.architecture} gives {tuple(images.shape)} where its card says {shape}; "
                f"import it again."
            )
        return images[:count]

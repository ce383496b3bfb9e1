"""Teachers that are programs in a file (ONNX, torch.export): what is common to both.

A program takes latents and labels, or labels alone, and returns images.  Here is how labels are fed, how a block is cut
and filled up for programs of a fixed batch size, and how output values become [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from interfaces import LabelSpace, TeacherCard
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files.exported_program import PROGRAM_FILE, ExportedProgram
from runtime.safe_files.onnx_file import MODEL_FILE, OnnxProgram
from runtime.safe_files.program import Program, pieces
from runtime.seeds import sample_normals
from teacher_sampler.black_box.registry import BLACK_BOXES
from training.model_folder import CARD_FILE

LabelForm = Literal["index", "one-hot", "value"]
LABEL_FORMS = ("index", "one-hot", "value")


@dataclass(frozen=True)
class CallConvention:
    """How a program is called; the card's `arguments`.

    `latents`, `labels`: names of inputs, None where it has none of them.
    `label_form`: the class's index, a one-hot vector, or the value in [0, 1].
    `black`, `white`: output values.
    """

    latents: str | None
    labels: str | None
    label_form: LabelForm
    black: float = -1.0
    white: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> CallConvention:
        """The inverse; ValueError or TypeError where a card says something else."""
        convention = CallConvention(**fields)
        if convention.label_form not in LABEL_FORMS:
            raise ValueError(f"label_form {convention.label_form!r} is none of {', '.join(LABEL_FORMS)}")
        if not float(convention.black) < float(convention.white):
            raise ValueError("black is not below white")
        if convention.latents is None and convention.labels is None:
            raise ValueError("a program takes latents or labels")
        return convention


def program_values(
    program: Program, convention: CallConvention, space: LabelSpace, latents: torch.Tensor | None, labels: np.ndarray
) -> dict[str, torch.Tensor]:
    """What the program is given: each input in its type and with as many dimensions as it has.

    `latents` float32 N x z (or None), `labels` N (or N x d) in the user's units.
    """
    given: dict[str, torch.Tensor] = {}
    if convention.labels is not None:
        encoded = space.encode(labels)
        if convention.label_form == "one-hot":
            encoded = torch.nn.functional.one_hot(encoded, space.width)
        given[convention.labels] = encoded
    if convention.latents is not None and latents is not None:
        given[convention.latents] = latents
    inputs = {}
    for slot in program.inputs:
        values = given[slot.name]
        sizes = (len(values), slot.width or values.shape[-1], 1, 1)[: len(slot.sizes)]
        inputs[slot.name] = values.to(slot.dtype).reshape(sizes)
    return inputs


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
        if self.convention.labels is None and label_space.width != 1:
            raise ValueError("a program without a label has one class")
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
        images = torch.cat(
            [self._call(piece, count) for piece, count in pieces(values, len(labels), self.program.batch)]
        )
        scale = 2.0 / (self.convention.white - self.convention.black)
        return (images.to(self.device).float() - self.convention.black) * scale - 1.0

    def candidates(self, labels: np.ndarray) -> np.ndarray | None:
        """Without end, or one of each label where there are no latents."""
        return None if self.convention.latents is not None else np.ones(len(labels), dtype=np.int64)

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


@BLACK_BOXES.register("onnx")
def load_onnx(folder: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> ProgramTeacher:
    """The teacher of a folder with `model.onnx`; UserError where the file is not that of the card."""
    program = OnnxProgram(folder / MODEL_FILE, device)
    if program.sha256 != card.source_digest:
        raise UserError(f"{program.path} does not match the digest in its card; the file is damaged, restore it.")
    try:
        return ProgramTeacher(card, label_space, program, device)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CARD_FILE} does not describe {program.path} ({error}); restore it.") from error


@BLACK_BOXES.register("torch-export")
def load_exported(folder: Path, card: TeacherCard, label_space: LabelSpace, device: torch.device) -> ProgramTeacher:
    """The teacher of a folder with `program.pt2`; UserError where the file is not that of the card."""
    path = folder / PROGRAM_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it or import the teacher again.")
    if file_sha256(path) != card.source_digest:
        raise UserError(f"{path} does not match the digest in its card; the file is damaged, restore it.")
    program = ExportedProgram(path, device)
    try:
        return ProgramTeacher(card, label_space, program, device)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CARD_FILE} does not describe {path} ({error}); restore it.") from error

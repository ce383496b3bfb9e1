"""A student generator as one torch.export program (.pt2) that runs without this code.

The saved file is loaded again and compared with the network before it takes its final name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from runtime.atomic import commit_new_file, make_folder, remove_leftovers, temporary_name
from runtime.errors import UserError
from runtime.os_errors import named
from runtime.seeds import torch_generator
from training.generator_folder import NetworkGenerator

SUFFIX = ".pt2"
PARITY_BATCHES = (1, 2, 7)
PARITY_TOLERANCE = 1e-4  # of images in [-1, 1]; half a grey level is 0.004


@dataclass(frozen=True)
class ExportedStudent:
    """What was written, and the largest difference of any output entry in the parity check."""

    path: Path
    largest_difference: float
    parity_batches: tuple[int, ...]


def export_student(student: NetworkGenerator, out_file: Path) -> ExportedStudent:
    """Write `program(latents float32 N x z, encoded labels) -> float32 N x C x H x W` for any N >= 1.

    Encoded labels are int64 N for classes and float32 N x d in [0, 1] for continuous labels.  The program runs on the
    CPU.  UserError: another suffix, a file that is already there, a network that cannot be exported, no parity.
    """
    out_file = Path(out_file)
    if out_file.suffix != SUFFIX:
        raise UserError(f"{out_file} must end in {SUFFIX}, the suffix of torch.export programs.")
    if out_file.exists():
        raise UserError(f"{out_file} is already there; give another name or move it away.")
    make_folder(out_file.parent)
    # torch.export writes weights in their plain order only without a warning
    remove_leftovers(out_file.parent, out_file.name)
    temporary = temporary_name(out_file)
    network = student.network.cpu().to(memory_format=torch.contiguous_format).eval()
    try:
        _save_program(student, network, temporary, out_file)
        difference = _largest_difference(student, network, temporary)
        if not difference <= PARITY_TOLERANCE:
            raise UserError(
                f"{out_file} was not written: the exported program differs from the network by {difference:.2g} "
                f"(allowed: {PARITY_TOLERANCE:g}); export with another version of torch."
            )
        commit_new_file(temporary, out_file)
    finally:
        temporary.unlink(missing_ok=True)
        student.network.to(student.device).to(memory_format=torch.channels_last)
    return ExportedStudent(out_file, difference, PARITY_BATCHES)


def _save_program(student: NetworkGenerator, network: nn.Module, path: Path, final: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    inputs = _example_inputs(student, 2)  # a batch of 1 would be taken for a constant
    try:
        program = torch.export.export(network, inputs, dynamic_shapes=({0: batch}, {0: batch}))
        whole = io.BytesIO()  # the archive's writer ends the process where a disk is full
        torch.export.save(program, whole)
    except Exception as error:  # torch.export raises many types
        raise UserError(
            f"the student {student.card.architecture} cannot be exported by torch {torch.__version__} "
            f"({str(error).strip().splitlines()[0]})."
        ) from error
    with named(final):
        path.write_bytes(whole.getvalue())


def _largest_difference(student: NetworkGenerator, network: nn.Module, path: Path) -> float:
    program = torch.export.load(io.BytesIO(path.read_bytes())).module()
    differences = []
    with torch.no_grad():
        for count in PARITY_BATCHES:
            inputs = _example_inputs(student, count)
            differences.append(float((program(*inputs) - network(*inputs)).abs().max()))
    return max(differences)


def _example_inputs(student: NetworkGenerator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_generator(0, "export-parity", count)
    latents = torch.randn(count, int(student.card.latent["dimension"]), generator=generator)
    space = student.label_space
    if space.kind == "classes":
        return latents, torch.randint(space.width, (count,), generator=generator)
    return latents, torch.rand(count, space.width, generator=generator)

"""Weighted feature losses between a frozen teacher and a student that is being trained on the same (latents, labels).

Every tap must have fired and every weighted term must carry a gradient at the first step, else a UserError names the
path: a term that silently does nothing is the most common mistake with feature losses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from runtime.collectives import rows_of_all_ranks
from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks
from runtime.seeds import derive_seed
from training.generator_folder import NetworkGenerator
from white_box.losses import WHITE_BOX_LOSSES
from white_box.settings import WhiteBoxSettings
from white_box.taps import ForwardTap, blocks_by_size, map_shapes

EXAMPLES = 2  # batch of the dry forward pass


class FeatureTerms(nn.Module):
    """The WhiteBoxTerms interface.  Its parameters are the adapters'; the teacher is no part of its state."""

    def __init__(self, teacher: NetworkGenerator, modules: nn.ModuleDict, settings: WhiteBoxSettings,
                 taps: tuple[tuple[str, str], ...], ranks: Ranks = ALONE) -> None:  # fmt: skip
        super().__init__()
        self.taps, self.settings, self.ranks = taps, settings, ranks
        self._weights = settings.weights()
        self.losses = modules
        self._teacher = (teacher,)  # in a tuple: not a submodule, so neither trained nor saved
        self._teacher_tap = ForwardTap(teacher.network, [path for path, _ in taps], "teacher")
        self._student_tap: ForwardTap | None = None
        self._checked = False

    def attach(self, student: nn.Module) -> None:
        """Hook the student that is about to be trained (after any copy of it was made: copies would share hooks)."""
        if self._student_tap is not None:
            self._student_tap.close()
        self._student_tap = ForwardTap(student, [path for _, path in self.taps], "student")
        self._checked = False

    def close(self) -> None:
        """Remove all hooks."""
        self._teacher_tap.close()
        if self._student_tap is not None:
            self._student_tap.close()
            self._student_tap = None

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """After the student's forward pass on the same float32 N x z latents and encoded labels: named, weighted
        scalars "loss[teacher path -> student path]", whose sum is the white-box loss.
        """
        if self._student_tap is None:
            raise UserError("white box: the terms are not attached to a student.")
        mine = self._student_tap.outputs()
        with torch.no_grad():
            self._teacher[0].network(latents, labels)
        theirs = self._teacher_tap.outputs()
        terms: dict[str, torch.Tensor] = {}
        for loss_name, weight in self._weights.items():
            for index, (teacher_path, student_path) in enumerate(self.taps):
                student_map, teacher_map = _same_size(
                    mine[student_path], theirs[teacher_path], self.settings.resize_maps
                )
                loss = self.losses[f"{loss_name}-{index}"]
                if self.ranks.count > 1 and getattr(loss, "of_whole_batch", False):
                    student_map = rows_of_all_ranks(student_map, self.ranks.number)
                    teacher_map = rows_of_all_ranks(teacher_map, self.ranks.number)
                value = loss(student_map, teacher_map)
                terms[f"{loss_name}[{teacher_path} -> {student_path}]"] = value * (weight / len(self.taps))
        if not self._checked and torch.is_grad_enabled():
            self._check_gradients(terms, mine)
            self._checked = True
        self._teacher_tap.clear()
        self._student_tap.clear()
        return terms

    def _check_gradients(self, terms: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        for name, value in terms.items():
            path = name[:-1].rpartition(" -> ")[2]
            output = outputs[path]
            slope = None
            if output.requires_grad and value.requires_grad:
                (slope,) = torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)
            if slope is None or not bool(slope.abs().sum() > 0) or not bool(torch.isfinite(slope).all()):
                raise UserError(
                    f"white box: the term {name} gives the student's {path!r} no usable gradient; "
                    "tap another module, or leave the term out."
                )


def build_terms(
    teacher: NetworkGenerator, student_example: nn.Module, settings: WhiteBoxSettings, ranks: Ranks = ALONE
) -> FeatureTerms:
    """The terms for students of the kind of `student_example` (any weights; it is only run once, and left alone).

    UserError: the teacher has no network, an unknown path, no blocks of equal size, maps of unequal size without
    `resize_maps`.  Adapters start from (settings.seed) alone.
    """
    network = getattr(teacher, "network", None)
    if not isinstance(network, nn.Module):
        raise UserError("white box: the teacher is not a local network, so its insides cannot be read; leave it out.")
    teacher_inputs, student_inputs = _example_inputs(teacher, network), _example_inputs(teacher, student_example)
    taps = settings.taps() or _matching_blocks(network, teacher_inputs, student_example, student_inputs)
    for owner, module, paths in (
        ("teacher", network, [path for path, _ in taps]),
        ("student", student_example, [path for _, path in taps]),
    ):
        ForwardTap(module, paths, owner).close()  # refuses paths that are not there
    theirs, mine = map_shapes(network, *teacher_inputs), map_shapes(student_example, *student_inputs)
    modules = nn.ModuleDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "white-box-adapters"))
        for index, (teacher_path, student_path) in enumerate(taps):
            _check_shapes(
                teacher_path, theirs.get(teacher_path), student_path, mine.get(student_path), settings.resize_maps
            )
            for name in settings.weights():
                factory = WHITE_BOX_LOSSES.get(name)
                loss = factory(mine[student_path][1], theirs[teacher_path][1], settings)
                modules[f"{name}-{index}"] = loss
    return FeatureTerms(teacher, modules, settings, tuple(taps), ranks)


def _example_inputs(teacher: NetworkGenerator, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    parameter = next(network.parameters())
    space = teacher.label_space
    if space.kind == "classes":
        encoded = torch.zeros(EXAMPLES, dtype=torch.int64)
    else:
        encoded = torch.full((EXAMPLES, space.width), 0.5)
    latents = torch.linspace(-1, 1, EXAMPLES * int(teacher.card.latent["dimension"])).view(EXAMPLES, -1)
    return latents.to(parameter.device), encoded.to(parameter.device)


def _matching_blocks(
    teacher: nn.Module,
    teacher_inputs: tuple[torch.Tensor, ...],
    student: nn.Module,
    student_inputs: tuple[torch.Tensor, ...],
) -> tuple[tuple[str, str], ...]:
    theirs, mine = blocks_by_size(teacher, *teacher_inputs), blocks_by_size(student, *student_inputs)
    taps = tuple((theirs[size], mine[size]) for size in sorted(set(theirs) & set(mine)))
    if not taps:
        raise UserError(
            f"white box: no block of the teacher (sizes {sorted(theirs)}) has the size of one of the student's "
            f"({sorted(mine)}); name the taps, and set resize_maps."
        )
    return taps


def _check_shapes(
    teacher_path: str,
    teacher_shape: tuple[int, ...] | None,
    student_path: str,
    student_shape: tuple[int, ...] | None,
    resize: bool,
) -> None:
    for owner, path, shape in (("teacher", teacher_path, teacher_shape), ("student", student_path, student_shape)):
        if shape is None:
            raise UserError(
                f"white box: the {owner}'s module {path!r} does not fire, or gives no N x C x H x W map; "
                "tap a convolution or a block that the forward pass uses."
            )
    if teacher_shape is None or student_shape is None:
        return
    if not resize and teacher_shape[2:] != student_shape[2:]:
        raise UserError(
            f"white box: {teacher_path!r} is {teacher_shape[2]} x {teacher_shape[3]}, {student_path!r} is "
            f"{student_shape[2]} x {student_shape[3]}; tap maps of equal size, or set resize_maps."
        )


def _same_size(student: torch.Tensor, teacher: torch.Tensor, resize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring the larger map to the size of the smaller one, where that is allowed."""
    if student.shape[2:] == teacher.shape[2:] or not resize:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)

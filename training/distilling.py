"""A method at work in a training: built for its networks, run in its stages, checked at its first steps.

method = build_method([choice], space, seed, given={"logits", "features", "labels"})
distillation = Distillation(method, steps, ranks)
for step in loop:
    at = distillation.at(step)
    terms = distillation(student_views, teacher_views, batch)
    terms["loss"].backward()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import nn

from interfaces import LabelSpace
from interfaces.method import Batch, Method, Stage, Views
from layers.batch_statistics import share_statistics
from layers.features import Insides
from runtime.collectives import rows_of_all_ranks
from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks
from runtime.registry import Choice
from runtime.seeds import derive_seed
from training.methods import METHODS


@dataclass(frozen=True)
class MethodSpace:
    """What a method is built from.  name: its own, in the registry.

    student, teacher: their features and shapes; None where the insides are not at hand.  labels: the training set's,
    int64 N or float32 N x d, in the order of `Batch.sample_index`.
    """

    name: str = "method"
    student: Insides | None = None
    teacher: Insides | None = None
    label_space: LabelSpace | None = None
    labels: torch.Tensor | None = None

    def insides(self) -> tuple[Insides, Insides]:
        """(student's, teacher's); UserError where a method on features cannot have them."""
        if self.student is None or self.teacher is None:
            raise UserError(
                f"method {self.name} reads the teacher's features, and this teacher's insides are not at hand; take a "
                "network that was trained or loaded here, or a method on outputs."
            )
        return self.student, self.teacher

    def classes(self) -> int:
        """How many; UserError where the labels are continuous, for a method on the probabilities of classes."""
        if self.label_space is None or self.label_space.kind != "classes":
            raise UserError(
                f"method {self.name} compares the probabilities of classes, and these labels are continuous; take "
                "blkd, or a method on features."
            )
        return self.label_space.width


class MethodSum(Method):
    """Several methods at once: L = sum of their losses.  All but the one that has stages act in its last stage only."""

    def __init__(self, parts: Sequence[Method]) -> None:
        """UserError where two have stages, or one changes what the networks see."""
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.requires = frozenset().union(*(part.requires for part in parts))
        self.student_features = tuple(dict.fromkeys(name for part in parts for name in part.student_features))
        self.teacher_features = tuple(dict.fromkeys(name for part in parts for name in part.teacher_features))
        self.whole_loss = any(part.whole_loss for part in parts)
        self.whole_batch = any(part.whole_batch for part in parts)
        staged = [part for part in parts if len(part.stages()) > 1]
        headed = [part for part in parts if part.head() is not None]
        alone = [part for part in parts if "rotations" in part.requires or type(part).inputs is not Method.inputs]
        if len(staged) > 1 or len(headed) > 1 or alone:
            raise UserError("these methods do not go together: each has stages, a head or views of its own; name one.")
        self._staged, self._headed = staged, headed

    def stages(self) -> tuple[Stage, ...]:
        return self._staged[0].stages() if self._staged else super().stages()

    def head(self) -> nn.Module | None:
        return self._headed[0].head() if self._headed else None

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        last = batch.stage == self.stages()[-1].name
        terms: dict[str, torch.Tensor] = {}
        losses = []
        for part in self.parts if last else self._staged:
            own = dict(part(student, teacher, batch))
            losses += [own.pop("loss")] if own else []
            terms |= own
        return {"loss": torch.stack(losses).sum(), **terms} if losses else {}


def build_method(
    choices: Sequence[Choice], space: MethodSpace, seed: int, given: Set[str], absent: Mapping[str, str] | None = None
) -> Method:
    """The method, or the sum of several, with adapters that start from the seed alone.

    given: what the trainer can give of `Method.requires`; absent: why, and what to do, where it lacks something.
    UserError for a method that requires more, and for what the methods themselves refuse.
    """
    for choice in choices:
        _check_requires(choice.name, METHODS.get(choice.name).requires, given, absent or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "white-box-adapters"))
        parts: list[Method] = [METHODS.build(choice, replace(space, name=choice.name)) for choice in choices]
    for choice, part in zip(choices, parts, strict=True):  # its settings may ask for more
        _check_requires(choice.name, part.requires, given, absent or {})
    return parts[0] if len(parts) == 1 else MethodSum(parts)


def _check_requires(name: str, requires: Set[str], given: Set[str], absent: Mapping[str, str]) -> None:
    missing = sorted(requires - given)
    if missing:
        reason = absent.get(missing[0], "which this training cannot give; take another method")
        raise UserError(f"method {name} requires {', '.join(missing)}: {reason}.")


@dataclass(frozen=True)
class Moment:
    """Where a step lies: in which stage, as which of its steps; `last`: in the training that was asked for."""

    stage: Stage
    step: int
    steps: int
    last: bool


class Distillation:
    """The method of a training with its stages.  steps: those that were asked for; `self.steps`: with all stages.

    Without a method there is one stage, and no term.
    """

    def __init__(
        self, method: Method | None, steps: int, ranks: Ranks = ALONE, device: torch.device | str = "cpu"
    ) -> None:
        self.method, self.ranks = (Method() if method is None else method).to(device).train(), ranks
        share_statistics(self.method, ranks, torch.device(device))
        self._active = method is not None
        self._stages = [(stage, max(1, round(stage.share * steps))) for stage in self.method.stages()]
        if self._stages[-1][1] != steps:
            raise ValueError(f"{type(method).__name__}: the last stage must have share 1")
        self.steps = sum(count for _, count in self._stages)
        self._checked: set[str] = set()

    def at(self, step: int) -> Moment:
        """The stage of a step, numbered from 0 through all of them."""
        for stage, count in self._stages:
            if step < count:
                return Moment(stage, step, count, stage is self._stages[-1][0])
            step -= count
        raise ValueError("this step lies behind the last stage")

    def __call__(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        """The method's scalars for this rank's part of the batch; checked at the first step of each stage."""
        if not self._active:
            return {}
        if self.ranks.count > 1 and self.method.whole_batch:
            terms = self.method(self._whole(student), self._whole(teacher), self._whole_batch(batch))
        else:
            terms = self.method(student, teacher, batch)
        if batch.stage not in self._checked:
            reads = next(stage.reads_features for stage, _ in self._stages if stage.name == batch.stage)
            check_terms(self.method, terms, student if reads else Views(student.output))
            self._checked.add(batch.stage)
        return terms

    def _rows(self, values: torch.Tensor) -> torch.Tensor:
        return rows_of_all_ranks(values, self.ranks.number) if len(values) else values

    def _whole(self, views: Views) -> Views:
        # Whole images need not travel for a loss that reads features alone.
        output = views.output if self.method.requires == {"features"} else self._rows(views.output)
        return Views(output, {name: self._rows(value) for name, value in views.features.items()})

    def _whole_batch(self, batch: Batch) -> Batch:
        weights = None if batch.weights is None else self.ranks.gather(batch.weights)
        index = None if batch.sample_index is None else self.ranks.gather(batch.sample_index)
        return replace(batch, labels=self.ranks.gather(batch.labels), weights=weights, sample_index=index)


def check_terms(method: Method, terms: dict[str, torch.Tensor], student: Views) -> None:
    """UserError naming the term, and the student's feature, that training would silently leave alone.

    A term must depend on what is trained; where features are read, each of them must get a finite gradient other than
    0 from the loss, and each other term must give one to at least one of them or to the output.
    """
    views = {name: value for name, value in student.features.items() if value.requires_grad}
    frozen = sorted(set(student.features) - set(views))
    if frozen:
        raise UserError(_useless("loss", repr(frozen[0])))
    sources = {**views, **({"output": student.output} if student.output.requires_grad else {})}
    for name, value in terms.items():
        if name in method.figures:
            continue
        if not value.requires_grad:
            raise UserError(_useless(name, "student or the adapters"))
        if not views:
            continue
        slopes = torch.autograd.grad(value, list(sources.values()), retain_graph=True, allow_unused=True)
        usable = {key for key, slope in zip(sources, slopes, strict=True) if slope is not None and _usable(slope)}
        wanted = [key for key in views if key not in usable] if name == "loss" else []
        if wanted or not usable:
            # A term between two features says so in its name: "feature_l2[teacher's -> student's]".
            raise UserError(_useless(name, repr(wanted[0]) if wanted else repr(name[:-1].rpartition(" -> ")[2])))


def _usable(slope: torch.Tensor) -> bool:
    return bool(slope.abs().sum() > 0) and bool(torch.isfinite(slope).all())


def _useless(term: str, whose: str) -> str:
    return (
        f"the method's term {term} gives the student's {whose} no usable gradient; name another feature, or leave the "
        "term out."
    )

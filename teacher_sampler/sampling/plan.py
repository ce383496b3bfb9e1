"""What is asked of the sampler: labels and counts, settings, the parts that do the work; and the units it is cut into.

A unit is a fixed range of candidate numbers k for a fixed group of labels.  Its shard is a pure function of the unit
and of the resolved settings, whoever makes it and in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from image_data.fake.manifest import candidate_counts, planned_counts
from image_data.labels import label_space_from_json
from interfaces import DensityRatio, LabelSpace, Predictor, Teacher
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.seeds import label_bits
from teacher_sampler.sampling.settings import SamplerSettings

PILOT_START = 1 << 40  # the pilot's candidates are numbered from here, far from those of the main run


class Acceptance(Protocol):
    """The rule by which candidates become samples; `filters.acceptance.Acceptance` is one."""

    @property
    def needs_ratio(self) -> bool: ...

    def ceiling(self, r: np.ndarray, label: str) -> float:
        """M of one label from its pilot's ratios; UserError naming `label` where none could be accepted."""
        ...

    def accept(self, uniforms: np.ndarray, r: np.ndarray, ceiling: float | np.ndarray) -> np.ndarray:
        """bool N: u <= r / M."""
        ...


ErrorFunction = Callable[[torch.Tensor, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SamplingParts:
    """Everything that looks at images.  Built in each worker by a picklable `make_parts`.

    `error(predictor output, labels) -> float32 N`.  Without a density ratio every candidate is accepted; without a
    predictor no scores are written.
    """

    teacher: Teacher
    density_ratio: DensityRatio | None
    predictor: Predictor | None
    acceptance: Acceptance
    error: ErrorFunction


MakeParts = Callable[[], SamplingParts]


@dataclass(frozen=True, eq=False)
class LabelPlan:
    """Labels in the user's units (int64 L, or float64 L or L x d), each once, and how many fakes of each."""

    labels: np.ndarray
    per_label: int

    @staticmethod
    def classes(space: LabelSpace, per_label: int) -> LabelPlan:
        """So many fakes of every class."""
        return LabelPlan(np.arange(space.width, dtype=np.int64), per_label)

    @staticmethod
    def values(space: LabelSpace, values: np.ndarray, per_label: int) -> LabelPlan:
        """So many fakes of each of these continuous labels; UserError where one is outside the space or given twice."""
        plan = LabelPlan(np.asarray(values, dtype=np.float64), per_label)
        plan.check(space)
        return plan

    @property
    def total(self) -> int:
        """Number of fakes."""
        return self.per_label * len(self.labels)

    def check(self, space: LabelSpace) -> None:
        """Raise UserError where the plan cannot be carried out in this label space."""
        if self.per_label < 1 or not len(self.labels):
            raise UserError(
                f"{self.per_label} fakes of each of {len(self.labels)} labels is nothing; ask for 1 or more."
            )
        wanted = np.int64 if space.kind == "classes" else np.float64
        if self.labels.dtype != wanted:
            raise UserError(f"the planned labels are {self.labels.dtype}, but the teacher's are {np.dtype(wanted)}.")
        space.check(self.labels, "the planned labels")
        if len(np.unique(label_bits(self.labels))) != len(self.labels):
            raise UserError("the planned labels name a label twice; give each once.")


def label_name(space: Mapping[str, Any], label: Any) -> str:
    """How an error names a label: the class's name and index, or the value with its unit.  `space`: its JSON."""
    if space["kind"] == "classes":
        name = space["names"][int(label)]
        return f"{int(label)} ({name})" if name != str(int(label)) else str(name)
    return f"{label} {space['unit']}".strip()


def check_enough(
    space: Mapping[str, Any], plan: LabelPlan, available: Sequence[int] | None, whole: bool = True
) -> None:
    """UserError naming the label where the teacher has fewer images of it than are wanted; `available`: of each.

    Not `whole`: what is there is taken, so that only a label without any image is an error.
    """
    if available is None:
        return
    for label, count in zip(plan.labels, available, strict=True):
        if count < (plan.per_label if whole else 1):
            raise too_few(label_name(space, label), count, plan.per_label)


def too_few(label: str, available: int, wanted: int, accepted: str = "") -> UserError:
    """The error of a label that has run out; `accepted` tells what came of its images."""
    if not available:
        return UserError(
            f"label {label} has no images; ask for labels that the teacher has, or give it images of this one."
        )
    images = f"{available} image{'s' if available > 1 else ''}"
    return UserError(
        f"label {label} has only {images}{accepted}, and {wanted} are wanted; ask for fewer, or give the teacher more "
        f"images{', or take what is there with --take-available' if not accepted else ''}."
    )


@dataclass(frozen=True, eq=False)
class RunContent:
    """What a run writes first, to `run.json`: resolved settings, labels and what the parts are like.

    Its digest is in every shard.  The number of fakes is not in it, since that may grow.  `teacher`: how its images
    come about, in words (its digest is in the settings).  `available`: how many candidates each planned label has, for
    a teacher that has no more than that.
    """

    settings: SamplerSettings
    label_space: dict[str, Any]
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    latent_dimension: int | None
    has_ratio: bool
    needs_ratio: bool
    has_predictor: bool
    teacher: dict[str, Any]
    available: list[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Canonical content; without `available` where candidates are endless, as it was before finite teachers."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.available is None:
            del content["available"]
        content["settings"] = self.settings.content()
        content["labels"] = self.labels.tolist()
        content["image_shape"] = list(self.image_shape)
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunContent:
        """The inverse of `to_json`; KeyError, TypeError or ValueError where it is malformed."""
        space = label_space_from_json(content["label_space"])
        labels = np.asarray(content["labels"], dtype=np.int64 if space.kind == "classes" else np.float64)
        available = content.get("available")
        if available is not None and [type(count) for count in available] != [int] * len(labels):
            raise ValueError("available")
        changed = {
            "settings": SamplerSettings(**content["settings"]),
            "labels": labels,
            "image_shape": tuple(content["image_shape"]),
        }
        return RunContent(**{**content, **changed})

    @property
    def digest(self) -> str:
        """Names the settings."""
        return digest_of(self.to_json())

    @property
    def predictor_digest(self) -> str:
        """Names the score set that the run writes."""
        return self.settings.predictor_digest or "unnamed"

    def wanted(self, per_label: int) -> np.ndarray:
        """int64 L: fakes of each planned label where `per_label` are asked for; fewer where what is there is taken."""
        return planned_counts(self.to_json(), per_label)

    @property
    def groups(self) -> int:
        """Number of label groups."""
        return -(-len(self.labels) // self.group_size)

    @property
    def group_size(self) -> int:
        return int(self.settings.group_size or 1)

    @property
    def unit_candidates(self) -> int:
        return int(self.settings.unit_candidates or 1)

    def group_rows(self, group: int) -> slice:
        """Positions of a group's labels in the plan."""
        return slice(group * self.group_size, min((group + 1) * self.group_size, len(self.labels)))

    def label_name(self, row: int) -> str:
        """How an error names the planned label in this position."""
        return label_name(self.label_space, self.labels[row])

    def candidate_counts(self, group: int, index: int) -> np.ndarray:
        """int64 G: candidates of each label of unit `index`; fewer than `unit_candidates` where a label runs out."""
        first_k = index * self.unit_candidates
        return candidate_counts(self.available, self.group_rows(group), first_k, self.unit_candidates)


@dataclass(frozen=True, order=True)
class Unit:
    """Range `index` of k for label group `group`."""

    group: int
    index: int

    @property
    def name(self) -> str:
        """The file name of its shard and of its score files."""
        return f"unit-{self.group:05d}-{self.index:05d}.h5"


def candidate_keys(labels: np.ndarray, first_k: int, counts: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place in `labels`, keys) of each candidate, label by label, k rising from `first_k`: int64 n and int64 n x 2.

    `counts`: candidates of each label, one number or int64 L.
    """
    counts = np.broadcast_to(np.asarray(counts, dtype=np.int64), (len(labels),))
    place = np.repeat(np.arange(len(labels), dtype=np.int64), counts)
    k = first_k + np.arange(len(place), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, np.stack([label_bits(labels)[place], k], axis=1)

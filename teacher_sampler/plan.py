"""What is asked of the sampler: labels and counts, settings, the parts that do the work; and the units it is cut into.

A unit is a fixed range of candidate numbers k for a fixed group of labels.  Its shard is a pure function of the unit
and of the resolved settings, whoever makes it and in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from interfaces import DensityRatio, LabelSpace, Predictor, Teacher
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.seeds import label_bits

PILOT_START = 1 << 40  # the pilot's candidates are numbered from here, far from those of the main run
_UNIT_BYTES = 32 << 20  # pixels of one unit's candidates
_UNIT_CANDIDATES = 8192
_LABELS_PER_GROUP = 16  # continuous labels: so that shards are not tiny
_PILOT_CANDIDATES = 1000
_CAP_FACTOR = 200


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

    def check(self, space: LabelSpace) -> None:
        """Raise UserError where the plan cannot be carried out in this label space."""
        if self.per_label < 1 or not len(self.labels):
            raise UserError(f"{self.per_label} fakes of each of {len(self.labels)} labels is nothing; ask for 1 or more.")
        wanted = np.int64 if space.kind == "classes" else np.float64
        if self.labels.dtype != wanted:
            raise UserError(f"the planned labels are {self.labels.dtype}, but the teacher's are {np.dtype(wanted)}.")
        space.check(self.labels, "the planned labels")
        if len(np.unique(label_bits(self.labels))) != len(self.labels):
            raise UserError("the planned labels name a label twice; give each once.")


@dataclass(frozen=True)
class SamplerSettings:
    """All that the bytes depend on, besides the plan.  `None` stands for a value that `resolve` works out.

    `parents` holds the digests of `teacher`, `filter`, `predictor` (those that are there); `acceptance` describes the
    acceptance rule, e.g. {"quantile": 0.999}.  `threads` is the number of each process, not of all together.
    """

    seed: int = 0
    block_size: int = 256  # candidates that networks see at once
    unit_candidates: int | None = None  # candidates of each label in one unit
    group_size: int | None = None  # labels in one unit: 1 for classes, up to 16 for continuous labels
    store_latents: bool = False
    pilot_candidates: int | None = None  # of each label
    ceiling_neighbours: int | None = None  # continuous labels: a ceiling pools the pilots of so many nearest labels
    running_max: bool = False  # the published rule, started from the pilot's maximum anew in each unit
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the teacher's forward pass (autocast)
    tf32: bool = False
    threads: int = 1
    parents: Mapping[str, str] = field(default_factory=dict)
    acceptance: Mapping[str, Any] = field(default_factory=dict)
    max_candidates_per_label: int | None = None  # the only field that the bytes do not depend on

    def resolve(self, plan: LabelPlan, space: LabelSpace, image_shape: tuple[int, int, int]) -> SamplerSettings:
        """The same settings without `None` (the cap apart).  Raises UserError for settings that make no sense."""
        if self.block_size < 1 or self.threads < 1:
            raise UserError("the block size and the number of threads must be 1 or more.")
        classes = space.kind == "classes"
        group = self.group_size or (1 if classes else min(_LABELS_PER_GROUP, len(plan.labels)))
        neighbours = 1 if classes else self.ceiling_neighbours or min(9, len(plan.labels))
        pilot = self.pilot_candidates or -(-_PILOT_CANDIDATES // neighbours)
        if self.unit_candidates is None:
            most = max(1, min(_UNIT_CANDIDATES, _UNIT_BYTES // math.prod(image_shape)) // group)
            step = self.block_size // math.gcd(self.block_size, group)  # so that a unit is whole blocks
            unit = -(-min(most, -(-plan.per_label // 2)) // step) * step
        else:
            unit = self.unit_candidates
        for name, value in (("unit size", unit), ("group size", group), ("pilot", pilot), ("pool", neighbours)):
            if value < 1:
                raise UserError(f"the sampler's {name} is {value}; it must be 1 or more.")
        changed = {"group_size": group, "ceiling_neighbours": neighbours, "pilot_candidates": pilot}
        return SamplerSettings(**{**self.__dict__, **changed, "unit_candidates": unit})

    def content(self) -> dict[str, Any]:
        """The JSON that the settings' digest is made of: everything that the bytes depend on."""
        found = asdict(self)
        found.pop("max_candidates_per_label")
        found["parents"], found["acceptance"] = dict(self.parents), dict(self.acceptance)
        return found

    def cap(self, plan: LabelPlan) -> int:
        """The number of candidates of one label after which it counts as starving."""
        return self.max_candidates_per_label or max(_CAP_FACTOR * plan.per_label, 50_000)


@dataclass(frozen=True, eq=False)
class RunContent:
    """What a run writes first, to `run.json`: the resolved settings with the labels.  Its digest is in every shard."""

    settings: SamplerSettings
    label_space: dict[str, Any]
    labels: np.ndarray
    image_shape: tuple[int, int, int]

    def to_json(self) -> dict[str, Any]:
        """Canonical content, without the number of fakes (which may grow)."""
        return {
            "settings": self.settings.content(),
            "label_space": self.label_space,
            "labels": self.labels.tolist(),
            "image_shape": list(self.image_shape),
        }

    @property
    def digest(self) -> str:
        """Names the settings."""
        return digest_of(self.to_json())

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

    def group_rows(self, group: int) -> range:
        """Positions of a group's labels in the plan."""
        return range(group * self.group_size, min((group + 1) * self.group_size, len(self.labels)))


@dataclass(frozen=True, order=True)
class Unit:
    """Range `index` of k for label group `group`."""

    group: int
    index: int

    @property
    def name(self) -> str:
        """The file name of its shard and of its score files."""
        return f"unit-{self.group:05d}-{self.index:05d}.h5"


def candidate_keys(labels: np.ndarray, first_k: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(place in `labels`, keys) of each candidate, label by label, k rising: int64 n and int64 n x 2, n = L x count."""
    place = np.repeat(np.arange(len(labels), dtype=np.int64), count)
    k = np.tile(np.arange(first_k, first_k + count, dtype=np.int64), len(labels))
    return place, np.stack([label_bits(labels)[place], k], axis=1)

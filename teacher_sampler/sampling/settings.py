"""The sampler's settings: all that the bytes of a fake dataset depend on, besides labels, counts and parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from runtime.bounds import Count, Seed, ShareAboveZero
from runtime.errors import UserError
from runtime.settings import setting

_UNIT_BYTES = 32 << 20  # pixels of one unit's candidates
_UNIT_CANDIDATES = 8192
_LABELS_PER_GROUP = 16  # so that shards of continuous labels are not tiny
_NEIGHBOURS = 9
_PILOT_CANDIDATES = 1000
_CAP_FACTOR, _SMALLEST_CAP = 200, 50_000
_SMALLEST_BLOCK, _BLOCK = 32, 256
_NO_EFFECT = ("max_candidates_per_label",)  # fields that the bytes do not depend on


@dataclass(frozen=True)
class SamplerSettings:
    """`None` stands for a value that `resolve` works out from the plan; digests are "" for parts that are not used."""

    seed: Seed = setting(0, "Every random draw follows from it.")
    block_size: Count | None = setting(
        None, "Candidates that the networks see at once; left open: 256, fewer for a small dataset.", "candidates"
    )
    unit_candidates: Count | None = setting(
        None, "Candidates of each label in one unit of work, which is one shard.", "candidates"
    )
    group_size: Count | None = setting(
        None, "Labels in one unit of work; left open: 1 for classes, up to 16 for continuous labels.", "labels"
    )
    store_latents: bool = setting(True, "Store the latents, for students trained on pairs.")
    pilot_candidates: Count | None = setting(
        None, "Candidates of each label in the pilot that sets the ceilings.", "candidates"
    )
    ceiling_quantile: ShareAboveZero = setting(
        0.999, "Quantile of the pilot's density ratios that becomes the ceiling."
    )
    ceiling_neighbours: Count | None = setting(
        None, "Continuous labels: a ceiling pools the pilots of so many nearest labels.", "labels"
    )
    running_max: bool = setting(False, "The published ceiling: a running maximum, begun anew in each unit.")
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "Of the teacher's forward pass (autocast).")
    tf32: bool = setting(False, "Let a GPU round float32 products to TF32.")
    threads: Count = setting(1, "Threads of each worker process; more workers are better than more threads.")
    max_candidates_per_label: Count | None = setting(
        None, "A label that needs more candidates is reported as starving.", "candidates"
    )
    take_available: bool = setting(
        False, "Ready images without a filter: take all of a label that has fewer than asked for."
    )
    teacher_digest: str = setting("", "Digest of the teacher.")
    filter_digest: str = setting("", "Digest of the filter.")
    predictor_digest: str = setting("", "Digest of the predictor.")

    def resolve(self, labels: int, per_label: int, classes: bool, image_bytes: int) -> SamplerSettings:
        """The same settings without `None` (the cap apart).  Raises UserError for settings that make no sense."""
        group = self.group_size or (1 if classes else min(_LABELS_PER_GROUP, labels))
        if self.block_size is None:
            sized = replace(self, block_size=_block(group * per_label))
            return sized.resolve(labels, per_label, classes, image_bytes)
        neighbours = 1 if classes else self.ceiling_neighbours or min(_NEIGHBOURS, labels)
        resolved = replace(
            self,
            group_size=group,
            ceiling_neighbours=neighbours,
            pilot_candidates=self.pilot_candidates or self._in_whole_blocks(group, -(-_PILOT_CANDIDATES // neighbours)),
            unit_candidates=self.unit_candidates or self._unit(group, per_label, image_bytes),
        )
        counts = ("block_size", "threads", "group_size", "ceiling_neighbours", "pilot_candidates", "unit_candidates")
        for name in counts:
            if getattr(resolved, name) < 1:
                raise UserError(f"the sampler's {name} is {getattr(resolved, name)}; it must be 1 or more.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"the sampler's dtype {self.dtype!r} is unknown; use float32, bfloat16 or float16.")
        if not 0.0 < self.ceiling_quantile <= 1.0:
            raise UserError(f"the ceiling quantile is {self.ceiling_quantile}; it must be above 0 and at most 1.")
        return resolved

    def _unit(self, group: int, per_label: int, image_bytes: int) -> int:
        """About two units where all is accepted, in whole blocks, and never so many that memory would feel it."""
        most = min(_UNIT_CANDIDATES, _UNIT_BYTES // image_bytes)
        return self._in_whole_blocks(group, max(1, min(most // group, -(-per_label // 2))))

    def _in_whole_blocks(self, group: int, wanted: int) -> int:
        """At least `wanted` candidates of each label, so many that the group fills its last block."""
        size = max(1, self.block_size or 1)
        return max(1, -(-wanted * group // size) * size // group)

    def filled_from(self, stored: SamplerSettings) -> SamplerSettings:
        """Where this asks for nothing in particular, the values with which a run was begun."""
        asked_nothing = [item.name for item in fields(self) if getattr(self, item.name) is None]
        return replace(self, **{name: getattr(stored, name) for name in asked_nothing})

    def content(self) -> dict[str, Any]:
        """The JSON that the settings' digest covers."""
        values = {name: value for name, value in asdict(self).items() if name not in _NO_EFFECT}
        if not self.take_available:  # as it was before there was a choice
            del values["take_available"]
        return values

    def cap(self, per_label: int) -> int:
        """The number of candidates of one label after which it counts as starving."""
        return self.max_candidates_per_label or max(_CAP_FACTOR * per_label, _SMALLEST_CAP)


def _block(wanted: int) -> int:
    """A power of two that holds what a unit wants, so that few candidates of a small dataset are drawn in vain."""
    return min(_BLOCK, max(_SMALLEST_BLOCK, 1 << (wanted - 1).bit_length()))

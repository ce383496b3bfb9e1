"""A teacher seen through the user's eyes: a label map (subset, merge, rename) and another image size or channels.

Everything here is a pure function of (seed, label, k), like the teacher itself, and its description goes into the
manifest: it decides what the dataset holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from image_data.labels import ClassLabels
from interfaces import LabelSpace, Teacher
from layers.pixels import quantise
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files import printable, read_yaml
from runtime.seeds import label_bits

RESIZING = "bicubic with antialiasing"
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries turn colour into grey
_RANGE_BITS = 40  # k >> 40 separates the main run, the pilot and filter fitting; a map keeps a candidate's range


@dataclass(frozen=True)
class LabelMap:
    """`names`: the user's classes; `sources`: for each, the teacher's classes that are merged into it."""

    names: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """What the manifest holds."""
        return {"names": list(self.names), "sources": [list(group) for group in self.sources]}


@dataclass(frozen=True)
class Adaptation:
    """What is changed between the teacher and its user; None leaves a thing as the teacher has it."""

    label_map: LabelMap | None = None
    resolution_px: int | None = None
    channels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """{} where nothing is changed; otherwise what the manifest holds."""
        fields: dict[str, Any] = {}
        if self.label_map is not None:
            fields["label_map"] = self.label_map.to_json()
        if self.resolution_px is not None:
            fields |= {"resolution_px": self.resolution_px, "resizing": RESIZING}
        if self.channels is not None:
            fields["channels"] = self.channels
        return fields

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Adaptation:
        """The inverse of `to_json`."""
        mapped = fields.get("label_map")
        label_map = None
        if mapped is not None:
            label_map = LabelMap(tuple(mapped["names"]), tuple(tuple(group) for group in mapped["sources"]))
        return Adaptation(label_map, fields.get("resolution_px"), fields.get("channels"))

    def identity(self, teacher_digest: str) -> str:
        """The digest of the teacher as its user sees it."""
        content = self.to_json()
        return digest_of({"teacher": teacher_digest, "adaptation": content}) if content else teacher_digest


def read_label_map(path: Path, label_space: LabelSpace) -> LabelMap:
    """A YAML file: `classes:` with either a list of the teacher's classes, which keep their names, or NAME: [classes].

    The teacher's classes are given by index or by name.  UserError naming the file where it is malformed, names a
    class that the teacher lacks, or uses one twice.
    """
    path = Path(path)
    content = read_yaml(path, "--label-map")
    if not isinstance(label_space, ClassLabels):
        raise UserError(f"--label-map {path}: this teacher's labels are values, not classes; leave the map out.")
    classes = content.get("classes") if isinstance(content, dict) and set(content) == {"classes"} else None
    if isinstance(classes, list) and classes:
        entries: list[tuple[str | None, list[Any]]] = [(None, [entry]) for entry in classes]
    elif isinstance(classes, dict) and classes:
        entries = [
            (_class_name(name, path), value if isinstance(value, list) else [value]) for name, value in classes.items()
        ]
    else:
        raise UserError(
            f"--label-map {path} must hold `classes:` with a list, or with NAME: [teacher's classes] lines."
        )
    sources = tuple(tuple(_class_index(entry, label_space, path) for entry in group) for _, group in entries)
    names = tuple(
        label_space.names[group[0]] if name is None else name
        for (name, _), group in zip(entries, sources, strict=True)
        if group
    )
    used = [index for group in sources for index in group]
    if not all(sources):
        raise UserError(f"--label-map {path}: a class has no classes of the teacher; give each at least one.")
    if len(set(used)) < len(used):
        twice = next(index for index in used if used.count(index) > 1)
        raise UserError(
            f"--label-map {path}: the teacher's class {twice} is used twice; each may go to one class only."
        )
    return LabelMap(names, sources)


def _class_name(name: str, path: Path) -> str:
    if not name.strip():
        raise UserError(f"--label-map {path}: a class has no name; give each one.")
    return name


def _class_index(entry: Any, space: ClassLabels, path: Path) -> int:
    if isinstance(entry, bool) or not isinstance(entry, int | str):
        raise UserError(f"--label-map {path}: {printable(repr(entry))} is no class; give a class's index or name.")
    if isinstance(entry, str) and entry in space.names:
        if space.names.count(entry) > 1:
            numbers = " and ".join(str(index) for index, name in enumerate(space.names) if name == entry)
            raise UserError(
                f"--label-map {path}: the teacher's classes {numbers} are both called {printable(repr(entry))}; "
                f"give the index."
            )
        return space.names.index(entry)
    if isinstance(entry, int) and 0 <= entry < space.width:
        return entry
    raise UserError(
        f"--label-map {path}: the teacher has no class {printable(repr(entry))}; it has {space.width}, 0 to "
        f"{space.width - 1}."
    )


def adapt(teacher: Teacher, adaptation: Adaptation) -> Teacher:
    """The teacher itself where nothing is changed."""
    return AdaptedTeacher(teacher, adaptation) if adaptation.to_json() else teacher


class AdaptedTeacher:
    """The Teacher interface over another teacher.

    Candidate k of a class that merges n of the teacher's is candidate k // n of its (k mod n)-th: a merged class is
    balanced, and a mapped dataset holds the same images as an unmapped one.
    """

    def __init__(self, teacher: Teacher, adaptation: Adaptation) -> None:
        self.teacher, self.adaptation = teacher, adaptation
        self.device = getattr(teacher, "device", torch.device("cpu"))
        card = teacher.card
        label_map = adaptation.label_map
        if label_map is None and hasattr(teacher, "labels"):
            self.labels = teacher.labels  # ready images know which they have
        self.label_space: LabelSpace = teacher.label_space if label_map is None else ClassLabels(label_map.names)
        self.card = replace(
            card,
            resolution_px=adaptation.resolution_px or card.resolution_px,
            channels=adaptation.channels or card.channels,
            label_space=self.label_space.to_json(),
        )
        if self.card.channels != card.channels and {self.card.channels, card.channels} != {1, 3}:
            raise UserError(
                f"--image-channels {self.card.channels}: the teacher's images have {card.channels}; only 1 and 3 are "
                f"turned into each other."
            )

    def latents(self, keys: np.ndarray, seed: int) -> torch.Tensor | None:
        """The latents of the teacher's own candidates."""
        return self.teacher.latents(self._own(self._labels_of(keys), keys)[1], seed)

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """The teacher's images, resized and in the wanted channels.

        They are quantised first: a service and ready images give whole levels, and all kinds shall give the same.
        """
        images = self.teacher.generate(latents, *self._own(labels, keys), seed)
        size, channels = self.card.resolution_px, self.card.channels
        if tuple(images.shape[1:]) == (channels, size, size) or not bool(torch.isfinite(images).all()):
            return images
        images = quantise(images).float() / 127.5 - 1.0
        if images.shape[-1] != size or images.shape[-2] != size:
            images = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
        if images.shape[1] == 3 and channels == 1:
            weights = images.new_tensor(GREY_WEIGHTS)[None, :, None, None]
            images = (images * weights).sum(dim=1, keepdim=True)
        elif images.shape[1] == 1 and channels == 3:
            images = images.expand(-1, 3, -1, -1)
        return images

    def candidates(self, labels: np.ndarray) -> np.ndarray | None:
        """A merged class ends where the first of its sources does."""
        label_map = self.adaptation.label_map
        if label_map is None:
            return self.teacher.candidates(labels)
        limits = []
        for label in labels:
            sources = np.array(label_map.sources[int(label)], dtype=np.int64)
            counts = self.teacher.candidates(sources)
            if counts is None:
                return None
            limits.append(int((counts * len(sources) + np.arange(len(sources))).min()))
        return np.array(limits, dtype=np.int64)

    def _labels_of(self, keys: np.ndarray) -> np.ndarray:
        """A class's bits are its index; without a label map the labels are not looked at."""
        return keys[:, 0]

    def _own(self, labels: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(labels, keys) of the teacher's candidates behind the user's."""
        label_map = self.adaptation.label_map
        if label_map is None:
            return labels, keys
        counts = np.array([len(group) for group in label_map.sources], dtype=np.int64)
        table = np.full((len(counts), int(counts.max())), -1, dtype=np.int64)
        for row, group in enumerate(label_map.sources):
            table[row, : len(group)] = group
        rows = np.asarray(labels, dtype=np.int64)
        start = (keys[:, 1] >> _RANGE_BITS) << _RANGE_BITS
        number = keys[:, 1] - start
        own = table[rows, number % counts[rows]]
        return own, np.stack([label_bits(own), start + number // counts[rows]], axis=1)

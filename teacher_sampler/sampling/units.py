"""One unit: draw its candidates in fixed blocks, quantise, weigh, accept, score, and commit its files.

r, predictor output and error are computed from the uint8 images that are stored.  A unit whose files are there and
whole is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_data.fake.manifest import score_path, shard_path
from image_data.fake.sealed import (
    PILOT_LAYOUT,
    SCORE_LAYOUT,
    SHARD_LAYOUT,
    SealedBytes,
    commit_sealed,
    read_sealed,
    rows_crc32,
    seal,
)
from image_data.fake.verify import PILOT_FOLDER
from interfaces import Predictor
from layers.pixels import quantise
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.failure_points import failure_point
from runtime.seeds import sample_uniforms
from teacher_sampler.sampling.plan import (
    PILOT_START,
    ErrorFunction,
    MakeParts,
    RunContent,
    SamplingParts,
    Unit,
    candidate_keys,
)
from teacher_sampler.sampling.settings import SamplerSettings

_LARGEST_HALF = 65504.0
SCORED_AT_ONCE = 64  # accepted images that the predictor sees at once
_SCORED_BY = 16  # their last block is filled up to a multiple of this: odd sizes have other kernels, other last bits


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What the scheduler needs of a committed unit.  `accepted`: int64, rows of each label of the group."""

    unit: Unit
    accepted: np.ndarray
    candidates: int
    sha256: str
    score_sha256: str | None


@dataclass(frozen=True, eq=False)
class PilotResult:
    """The committed pilot of a label group: `r` float32 G x P."""

    group: int
    r: np.ndarray
    sha256: str


_built: dict[str, Any] = {}  # one process builds its parts once for a run, whatever the number of its units


def once_a_process(token: str, make: Any) -> Any:
    """What `make()` returns, built once in this process for the run named `token`; earlier runs' parts are let go."""
    if token not in _built:
        _built.clear()
        with torch.inference_mode(False):  # parameters created in inference mode would be of no use elsewhere
            _built[token] = make()
    return _built[token]


def release(token: str) -> None:
    """Let the parts of a finished run go."""
    _built.pop(token, None)


@contextmanager
def fixed_numerics(settings: SamplerSettings) -> Iterator[None]:
    """Threads, TF32 and determinism as the settings say, restored afterwards; no gradients."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if threads != settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=settings.tf32),
            torch.inference_mode(),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        if threads != settings.threads:
            torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Block:
    """Some candidates: uint8 images on the teacher's device, float32 latents or None, float32 r."""

    span: slice
    images: torch.Tensor
    latents: torch.Tensor | None
    r: np.ndarray


def blocks(parts: SamplingParts, settings: SamplerSettings, labels: np.ndarray, keys: np.ndarray) -> Iterator[Block]:
    """The candidates of (labels, keys) in order.  Networks always see whole blocks; the last is filled up and cut."""
    size = int(settings.block_size or 1)
    for start in range(0, len(keys), size):
        span = slice(start, min(start + size, len(keys)))
        real = span.stop - start
        fill = np.minimum(np.arange(start, start + size), len(keys) - 1)
        latents = parts.teacher.latents(keys[span], settings.seed)
        filled = latents
        if latents is not None and real < size:
            filled = torch.cat([latents, latents[-1:].expand(size - real, -1)])
        with _autocast(parts, settings):
            raw = parts.teacher.generate(filled, labels[fill], keys[fill], settings.seed)
        if not bool(torch.isfinite(raw).all()):
            raise UserError(
                f"the teacher gives pixels that are not numbers for label {labels[start]} near candidate "
                f"{keys[start, 1]}; train or import it again, or sample in float32."
            )
        images = quantise(raw)
        r = np.ones(real, dtype=np.float32)
        if parts.density_ratio is not None:
            r = parts.density_ratio(images, labels[fill])[:real].cpu().numpy().astype(np.float32)
            if not (np.isfinite(r).all() and (r >= 0).all()):
                raise UserError(f"the filter gives a ratio that is no number for label {labels[start]}; fit it again.")
        yield Block(span, images[:real], latents, r)


def _autocast(parts: SamplingParts, settings: SamplerSettings) -> Any:
    if settings.dtype == "float32":
        return nullcontext()
    device = getattr(parts.teacher, "device", torch.device("cpu"))
    return torch.autocast(device.type, dtype=getattr(torch, settings.dtype))


def predict(
    predictor: Predictor, error: ErrorFunction, images: np.ndarray, labels: np.ndarray, size: int, classes: bool
) -> dict[str, np.ndarray]:
    """The arrays of a score file for uint8 images N x C x H x W, in blocks of at most `size`, the last filled up."""
    outputs = []
    size = min(size, SCORED_AT_ONCE)
    step = min(size, _SCORED_BY)
    for start in range(0, len(images), size):
        filled = min(size, -(-(len(images) - start) // step) * step)
        fill = np.minimum(np.arange(start, start + filled), len(images) - 1)
        outputs.append(predictor.predictions(torch.from_numpy(images[fill]))[: len(images) - start])
    if not outputs:
        width = predictor.predictions(torch.zeros((size, *images.shape[1:]), dtype=torch.uint8)).shape[1:]
        outputs = [torch.empty((0, *width))]
    output = torch.cat(outputs)
    errors = np.asarray(error(output, labels), dtype=np.float32)
    if errors.shape != (len(images),):
        raise ValueError(f"the error function gave shape {errors.shape} for {len(images)} images")
    if not np.isfinite(errors).all():
        raise UserError("the predictor gives an error that is no number; train it again.")
    stored: np.ndarray
    if classes:
        stored = output.clamp(-_LARGEST_HALF, _LARGEST_HALF).numpy().astype(np.float16)
    else:
        stored = output.numpy().astype(np.float32).reshape(labels.shape)
    return {"output": stored, "error": errors}


def compute_unit(
    parts: SamplingParts, content: RunContent, ceilings: np.ndarray | None, unit: Unit
) -> dict[str, np.ndarray]:
    """The arrays of a unit's shard.  `ceilings`: float64, M of each planned label, or None where all is accepted."""
    settings = content.settings
    group = content.labels[content.group_rows(unit.group)]
    counts = content.candidate_counts(unit.group, unit.index)
    place, keys = candidate_keys(group, unit.index * content.unit_candidates, counts)
    labels = group[place]
    uniforms = sample_uniforms(keys, settings.seed, "accept", 1)[:, 0]
    bound = np.ones(len(group)) if ceilings is None else ceilings[content.group_rows(unit.group)].copy()
    accepted: list[np.ndarray] = []
    images: list[np.ndarray] = []
    latents: list[np.ndarray] = []
    r = np.empty(len(keys), dtype=np.float32)
    for block in blocks(parts, settings, labels, keys):
        where = place[block.span]
        r[block.span] = block.r
        if settings.running_max:
            np.maximum.at(bound, where, block.r)
        mask = parts.acceptance.accept(uniforms[block.span], block.r, bound[where])
        passed = np.flatnonzero(mask)
        accepted.append(passed + block.span.start)
        images.append(block.images[torch.from_numpy(passed).to(block.images.device)].cpu().numpy())
        if settings.store_latents and block.latents is not None:
            latents.append(block.latents[torch.from_numpy(passed)].numpy())
    rows = np.concatenate(accepted)
    pixels = np.concatenate(images)
    arrays = {"fake_images": pixels, "fake_labels": labels[rows], "sample_index": keys[rows, 1]}
    if latents:
        arrays["latents"] = np.concatenate(latents)
    arrays |= {"density_ratio": r[rows], "row_crc32": rows_crc32(pixels)}
    return arrays | {"candidates/k": keys[:, 1].copy(), "candidates/r": r}


@dataclass(frozen=True, eq=False)
class MadeUnit:
    """A computed unit that waits for its commit: its files, or the SHA-256 of those that are there and whole."""

    unit: Unit
    accepted: np.ndarray
    candidates: int
    shard: SealedBytes | str
    scores: SealedBytes | str | None


@dataclass(frozen=True, eq=False)
class UnitWorker:
    """Makes, checks and commits units; picklable, builds the parts once in each process.

    Calling it is a whole task.  `compute` and `commit` are its halves, for those who write while they compute.
    """

    folder: Path
    make_parts: MakeParts
    content: RunContent
    settings_digest: str
    ceilings: np.ndarray | None
    token: str

    def __call__(self, unit: Unit) -> UnitResult:
        return self.commit(self.compute(unit))

    def compute(self, unit: Unit) -> MadeUnit:
        """All but the disk: a thread that writes meanwhile shall not ask for the interpreter, which the networks'
        passes would wait for.  Files that are there and whole are not computed again.
        """
        path = shard_path(self.folder, unit.name)
        with fixed_numerics(self.content.settings):
            arrays = _whole(path, SHARD_LAYOUT, self.attributes(unit))
            shard: SealedBytes | str
            if arrays is None:
                arrays = compute_unit(self._parts(), self.content, self.ceilings, unit)
                shard = seal(arrays, self.attributes(unit))
            else:
                shard = file_sha256(path)
            group = self.content.labels[self.content.group_rows(unit.group)]
            accepted = count_labels(group, arrays["fake_labels"])
            scores = self._scores(unit, arrays) if self.content.has_predictor else None
        return MadeUnit(unit, accepted, len(arrays["candidates/k"]), shard, scores)

    def commit(self, computed: MadeUnit) -> UnitResult:
        """Write what is not there: the shard, then its scores."""
        failure_point("sampler.unit_computed")
        unit = computed.unit
        sha256 = commit_made(shard_path(self.folder, unit.name), computed.shard)
        score_sha256 = None
        if computed.scores is not None:
            score_sha256 = commit_made(
                score_path(self.folder, self.content.predictor_digest, unit.name), computed.scores
            )
        return UnitResult(unit, computed.accepted, computed.candidates, sha256, score_sha256)

    def attributes(self, unit: Unit) -> dict[str, Any]:
        """What a shard says of itself."""
        return {"format_version": 1, "settings": self.settings_digest, "group": unit.group, "index": unit.index}

    def _parts(self) -> SamplingParts:
        parts: SamplingParts = once_a_process(self.token, self.make_parts)
        return parts

    def _scores(self, unit: Unit, arrays: dict[str, np.ndarray]) -> SealedBytes | str:
        parts = self._parts()
        if parts.predictor is None:
            raise UserError(f"{self.folder} was begun with a predictor; give the same one again.")
        digest = self.content.predictor_digest
        return make_scores(self.folder, self.content, digest, unit.name, arrays, parts.predictor, parts.error)


def overlapped(units: Iterable[MadeUnit], commit: Callable[[MadeUnit], UnitResult]) -> Iterator[UnitResult]:
    """Commit each unit in a thread while the next one is computed; a result comes when its files are committed."""
    with ThreadPoolExecutor(1, "commit") as writer:
        writing: Future[UnitResult] | None = None
        for unit in units:
            if writing is not None:
                yield writing.result()
            writing = writer.submit(commit, unit)
        if writing is not None:
            yield writing.result()


def commit_made(path: Path, content: SealedBytes | str) -> str:
    """Write the file, unless it is there; returns its SHA-256."""
    return content if isinstance(content, str) else commit_sealed(path, content)


def make_scores(
    folder: Path,
    content: RunContent,
    predictor_digest: str,
    name: str,
    arrays: dict[str, np.ndarray],
    predictor: Predictor,
    error: ErrorFunction,
) -> SealedBytes | str:
    """One shard's score file, or the SHA-256 of the file that is there and whole."""
    path = score_path(folder, predictor_digest, name)
    attributes = {"format_version": 1, "settings": content.digest, "predictor": predictor_digest, "shard": name}
    stored = _whole(path, SCORE_LAYOUT, attributes)
    if stored is not None and len(stored["error"]) == len(arrays["fake_labels"]):
        return file_sha256(path)
    classes = content.label_space["kind"] == "classes"
    size = int(content.settings.block_size or 1)
    return seal(predict(predictor, error, arrays["fake_images"], arrays["fake_labels"], size, classes), attributes)


@dataclass(frozen=True, eq=False)
class PilotWorker:
    """Draws the pilot of a label group, on its own range of k, and commits its ratios."""

    folder: Path
    make_parts: MakeParts
    content: RunContent
    settings_digest: str
    token: str

    def __call__(self, group: int) -> PilotResult:
        path = self.folder / PILOT_FOLDER / f"group-{group:05d}.h5"
        attributes = {"format_version": 1, "settings": self.settings_digest, "group": group}
        stored = _whole(path, PILOT_LAYOUT, attributes)
        if stored is not None:
            return PilotResult(group, stored["r"], file_sha256(path))
        parts: SamplingParts = once_a_process(self.token, self.make_parts)
        with fixed_numerics(self.content.settings):
            labels = self.content.labels[self.content.group_rows(group)]
            count = int(self.content.settings.pilot_candidates or 1)
            place, keys = candidate_keys(labels, PILOT_START, count)
            drawn = [block.r for block in blocks(parts, self.content.settings, labels[place], keys)]
        r = np.concatenate(drawn).reshape(len(labels), count)
        return PilotResult(group, r, commit_sealed(path, seal({"k": keys[:count, 1].copy(), "r": r}, attributes)))


def count_labels(group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 G: how often each label of the group occurs."""
    same = (labels[:, None] == group[None]).reshape(len(labels), len(group), group[0].size).all(axis=2)
    return same.sum(axis=0, dtype=np.int64)


def _whole(path: Path, layout: Any, attributes: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays of a committed file, or None where it has to be computed (again)."""
    if not path.is_file():
        return None
    try:
        arrays = read_sealed(path, layout, attributes)
    except UserError:
        return None
    if layout is SHARD_LAYOUT and not np.array_equal(rows_crc32(arrays["fake_images"]), arrays["row_crc32"]):
        return None
    return arrays

"""`run.json`: the settings with which a folder was begun, written before anything else and never replaced by others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from image_data.fake.manifest import MANIFEST_LIMIT_BYTES, RUN_FILE, Manifest, is_run_file, run_file_bytes, run_file_of
from image_data.fake.sealed import sealed_attributes
from image_data.fake.verify import PILOT_FOLDER
from interfaces import Teacher
from runtime.atomic import write_bytes
from runtime.errors import UserError
from runtime.locks import exclusive_lock
from runtime.progress import say
from runtime.safe_files import MissingFile, read_limited, read_sealed_json
from teacher_sampler.sampling.disk_space import check_space
from teacher_sampler.sampling.plan import (
    PILOT_START,
    LabelPlan,
    RunContent,
    SamplingParts,
    candidate_keys,
    check_enough,
    label_name,
)
from teacher_sampler.sampling.settings import SamplerSettings
from training.generator_folder import sampling_notes


@contextmanager
def one_writer(out: Path) -> Iterator[None]:
    """Hold the folder against other writers (sampling, scoring, repair); UserError where there is one at work."""
    refusal = f"another process is writing into {out}; wait for it or choose another folder."
    with exclusive_lock(out / ".lock", refusal):
        yield


def begin_run(out: Path, plan: LabelPlan, settings: SamplerSettings, parts: SamplingParts, workers: int) -> RunContent:
    """Check the request against the teacher and the machine, work out what was left open, and write `run.json`."""
    card, space = parts.teacher.card, parts.teacher.label_space
    plan.check(space)
    if parts.acceptance.needs_ratio and parts.density_ratio is None:
        raise UserError("rejection sampling needs a filter; give one, or sample with --filter none.")
    _, keys = candidate_keys(plan.labels[:1], 0, 1)
    latents = parts.teacher.latents(keys, settings.seed)
    quantile = getattr(parts.acceptance, "quantile", settings.ceiling_quantile)
    if parts.acceptance.needs_ratio and quantile != settings.ceiling_quantile:
        raise ValueError("the acceptance rule and the settings name different ceiling quantiles")
    available = _available(plan, parts)
    if settings.take_available and parts.acceptance.needs_ratio:
        raise UserError("--take-available takes every image of a label, and a filter does not; give --filter none.")
    check_enough(space.to_json(), plan, available, whole=not settings.take_available)
    _say_shortages(plan, space.to_json(), available)
    shape = (card.channels, card.resolution_px, card.resolution_px)
    content = RunContent(
        settings=settings.resolve(len(plan.labels), plan.per_label, space.kind == "classes", math.prod(shape)),
        label_space=space.to_json(),
        labels=plan.labels,
        image_shape=shape,
        latent_dimension=None if latents is None else int(latents.shape[1]),
        has_ratio=parts.density_ratio is not None,
        needs_ratio=parts.acceptance.needs_ratio,
        has_predictor=parts.predictor is not None,
        teacher=describe_teacher(parts.teacher),
        available=available,
    )
    _check_own(out, content)
    check_space(out, content, plan.per_label, None, workers)
    _write(out, content, plan.per_label)
    return content


def _say_shortages(plan: LabelPlan, space: dict[str, Any], available: list[int] | None) -> None:
    """Name the labels of which all images are taken, being fewer than asked for."""
    short = [
        f"{label_name(space, label)}: {count}"
        for label, count in zip(plan.labels, available or [], strict=False)
        if count < plan.per_label
    ]
    if short:
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        say(f"{plan.per_label} fakes are asked for; taken are all images of {', '.join(short[:10])}{more}")


def _check_own(out: Path, content: RunContent) -> None:
    """Files of a run whose `run.json` is lost are taken over where they say that they belong to the same settings."""
    committed = sorted(path for name in (PILOT_FOLDER, "shards") for path in (out / name).glob("*.h5"))
    for path in committed:
        stated = sealed_attributes(path).get("settings")
        if stated not in (None, content.digest):
            raise UserError(
                f"{path} was sampled with other settings, and {RUN_FILE}, which told them, is missing; restore it, or "
                f"choose another folder."
            )


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """Architecture, latent distribution, truncation, noise, standing statistics and adaptation; the same for a teacher
    at home and behind a service.
    """
    card = teacher.card
    adaptation = getattr(teacher, "adaptation", None)
    return {
        "architecture": card.arguments.get("served", card.architecture),
        "latent": card.latent,
        "truncation": card.truncation,
        "sampling": sampling_notes(card),
        "adaptation": {} if adaptation is None else adaptation.to_json(),
    }


def _available(plan: LabelPlan, parts: SamplingParts) -> list[int] | None:
    stated = parts.teacher.candidates(plan.labels)
    if stated is None:
        return None
    counts = np.asarray(stated)
    if counts.shape != (len(plan.labels),) or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise UserError(
            f"the teacher {parts.teacher.card.architecture} does not say how many images it has of each label; mend it."
        )
    return [min(int(count), PILOT_START) for count in counts]


def _write(out: Path, content: RunContent, per_label: int) -> None:
    write_bytes(out / RUN_FILE, run_file_bytes(content.to_json(), content.digest, per_label))


def load_run(out: Path) -> tuple[RunContent, int]:
    """The stored content and number of fakes of each label; UserError where `run.json` is damaged."""
    path = out / RUN_FILE
    try:
        stored = read_sealed_json(path, limit_bytes=MANIFEST_LIMIT_BYTES)
        content = RunContent.from_json(stored["content"])
        if content.digest != stored["digest"]:
            raise ValueError("digest")
        return content, int(stored["per_label"])
    except MissingFile as error:
        raise UserError(f"{path} is missing; restore it.") from error
    except (UserError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged; restore it, or remove it and run the same `sample` command again (`repair` for a "
            f"finished dataset), which makes it anew."
        ) from error


def read_run(out: Path, plan: LabelPlan, settings: SamplerSettings) -> RunContent:
    """The stored content, where settings and labels are those asked for; otherwise a UserError naming what differs."""
    stored, _ = load_run(out)
    asked = settings.filled_from(stored.settings)
    before, now = stored.settings.content(), asked.content()
    differing = [item.name for item in fields(SamplerSettings) if before.get(item.name) != now.get(item.name)]
    if plan.labels.dtype != stored.labels.dtype or not np.array_equal(plan.labels, stored.labels):
        differing.append("labels")
    if differing:
        raise UserError(
            f"{out} was begun with other settings ({', '.join(differing)}); choose another folder, "
            f"or give the settings in {out / RUN_FILE}."
        )
    check_enough(stored.label_space, plan, stored.available, whole=not stored.settings.take_available)
    return stored


def note_size(out: Path, content: RunContent, per_label: int) -> None:
    """Let `run.json` ask for so many fakes of each label; from here on a larger number than there are is owed."""
    if load_run(out)[1] != per_label:
        _write(out, content, per_label)


def mend_run_file(out: Path, manifest: Manifest) -> bool:
    """Write `run.json` of a finished dataset from its manifest, unless it is whole; returns whether it was written.

    One that asks for more fakes than there are belongs to a run that extends the dataset, and is left as it is.
    """
    path, wanted = out / RUN_FILE, run_file_of(manifest)
    if path.is_file() and (is_run_file(_bytes_of(path), wanted) or is_growing(out, manifest)):
        return False
    write_bytes(path, wanted)
    return True


def _bytes_of(path: Path) -> bytes:
    return read_limited(path, MANIFEST_LIMIT_BYTES, "restore it, or remove it")


def is_growing(out: Path, manifest: Manifest) -> bool:
    """Whether a run that extends this finished dataset was begun and has not ended: `run.json` asks for more."""
    try:
        content, per_label = load_run(out)
    except UserError:
        return False
    whole = is_run_file(_bytes_of(out / RUN_FILE), run_file_bytes(content.to_json(), content.digest, per_label))
    same = content.digest == manifest.content["settings_digest"]
    return whole and same and per_label > manifest.content["per_label"]

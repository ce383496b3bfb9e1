"""Make a teacher folder from a foreign checkpoint, a program, ready images, or the address of a teacher service.

Nothing in the file is executed.  Options must give what the file does not say, all at once; a file that does not fit is
refused with the names of what is missing, surplus or misshapen, and nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from commands.support.lineage import record_seen, seen_of
from commands.support.options import Channels, ListedNames, Names, SharedOptions
from commands.support.teachers import summary
from commands.support.workspace import artefact
from runtime.errors import UserError

ARCHITECTURES = Literal[
    "biggan", "biggan-deep", "stylegan2-ada", "ccgan-sngan", "ccgan-sagan", "onnx", "torch-export", "images", "http",
    "retort",
]  # fmt: skip

_CCGAN, _PROGRAMS = ("ccgan-sngan", "ccgan-sagan"), ("onnx", "torch-export")
_NAMED = ("biggan", "biggan-deep", "stylegan2-ada", *_PROGRAMS)
BELONGS_TO = {  # flags that only some kinds of teacher have a use for
    "label_embedding": _CCGAN,
    "label_network": _CCGAN,
    "label_range": (*_CCGAN, *_PROGRAMS, "images"),
    "label_unit": (*_CCGAN, *_PROGRAMS, "images"),
    "final_relu": _CCGAN,
    "class_names": (*_NAMED, "images"),
    "truncation_cutoff": ("stylegan2-ada", "retort"),
    "noise_mode": ("stylegan2-ada",),
    "label_input": _PROGRAMS,
    "output_range": _PROGRAMS,
    "entry": ("biggan", "biggan-deep", "stylegan2-ada", *_CCGAN),
    "resolution": ("images",),
    "channels": ("images",),
}


class Options(SharedOptions):
    """Flags of import-teacher."""

    arch: ARCHITECTURES | None = Field(None, description="Kind of teacher.")
    checkpoint: str | None = Field(None, description="Its file, folder or address.")
    entry: str | None = Field(None, description="Which network in the checkpoint; the averaged generator if open.")
    label_embedding: Path | None = Field(None, description="CcGAN: file of the label embedding network (y2h).")
    label_network: Path | None = Field(None, description="CcGAN: file of the image-to-label network, to check y2h by.")
    label_range: str | None = Field(None, description="LOW:HIGH, the labels that stand for 0 and 1, in your units.")
    label_unit: str = Field("", description="Unit of continuous labels, e.g. degrees.")
    class_names: ListedNames | None = Field(None, description="Names of the classes, in the teacher's order.")
    truncation: float | None = Field(None, ge=0, le=100, description="BigGAN: std of the latents; StyleGAN2: psi.")
    truncation_cutoff: int | None = Field(None, ge=0, description="StyleGAN2: how many of the w are truncated.")
    noise_mode: Literal["const", "random", "none"] | None = Field(None, description="StyleGAN2's noise; const if open.")
    final_relu: bool | None = Field(None, description="CcGAN: y2h ends in a ReLU; open: x2y tells it, or else it does.")
    label_input: Literal["index", "one-hot", "value"] | None = Field(None, description="Programs: form of the label.")
    output_range: str | None = Field(None, description="Programs: LOW:HIGH, the values of black and white.")
    resolution: int | None = Field(None, ge=8, le=1024, description="Ready images: resize to so many pixels.")
    channels: Channels | None = Field(None, description="Ready images: grey or colour.")
    standing_batches: int | None = Field(None, ge=1, description="Freeze batch statistics over so many batches.")
    standing_batch_size: int = Field(64, ge=2, description="Images in each of them.")
    augmentations: Names = Field((), description="What keeps the labels: flip, shift, ...")
    licence: str = Field("unknown", description="Licence of the teacher, for its card.")


def run(options: Options) -> dict[str, Any]:
    """Read and check the file, then write the folder, or find it done."""
    from runtime.devices import set_threads
    from runtime.safe_files.entries import ENTRY_NOTES
    from teacher_sampler.importers import IMPORTERS
    from teacher_sampler.importers.writing import (
        StandingStatistics,
        check_first_images,
        freeze_statistics,
        teacher_card,
        write_teacher,
    )

    set_threads(1)
    request = _request(options)
    imported = IMPORTERS.get(str(options.arch))(request)
    sources: dict[str, str | Path | None] = {
        "checkpoint": options.checkpoint,
        "label_embedding": options.label_embedding,
        "label_network": options.label_network,
    }
    notes: dict[str, Any] = {"imported": {kind: _named(path) for kind, path in sources.items() if path is not None}}
    parents = {kind: _content_digest(path) for kind, path in sources.items() if path is not None}
    if options.standing_batches is not None and not options.dry_run:
        standing = StandingStatistics(options.standing_batches, options.standing_batch_size, options.seed)
        freeze_statistics(imported, standing)
        notes["standing_statistics"] = standing.__dict__
    card = teacher_card(imported, request, notes)
    check_first_images(imported, card)
    with artefact("import-teacher", "teacher", options, parents) as output:
        if not output.finished:
            if options.arch == "retort":
                record_seen(output.folder, seen_of("teacher", str(options.checkpoint)))
            write_teacher(output.folder, imported, card)
    chosen = {name: imported.notes[name] for name in ENTRY_NOTES if name in imported.notes}
    return {"teacher": str(output.folder), **summary(output.folder), **chosen}


def _request(options: Options) -> Any:
    from teacher_sampler.importers.registry import ImportRequest

    missing = [flag for flag, value in (("--arch", options.arch), ("--checkpoint", options.checkpoint)) if not value]
    if missing:
        raise UserError(f"give {' and '.join(missing)}: what kind of teacher it is, and where its file lies.")
    _refuse_foreign_flags(options)
    return ImportRequest(
        checkpoint=str(options.checkpoint),
        label_embedding=options.label_embedding,
        label_network=options.label_network,
        label_range=_pair("--label-range", options.label_range),
        label_unit=options.label_unit,
        class_names=options.class_names,
        truncation=options.truncation,
        truncation_cutoff=options.truncation_cutoff,
        noise_mode=options.noise_mode,
        final_relu=options.final_relu,
        label_input=options.label_input,
        output_range=_pair("--output-range", options.output_range),
        resolution_px=options.resolution,
        channels=options.channels,
        augmentations=options.augmentations,
        licence=options.licence,
        entry=options.entry,
    )


def _refuse_foreign_flags(options: Options) -> None:
    """A flag that this kind of teacher has no use for is a mistake, not something to pass over."""
    given = {
        name for name in type(options).model_fields if getattr(options, name) != Options.model_fields[name].default
    }
    strange = sorted(name for name in given & set(BELONGS_TO) if options.arch not in BELONGS_TO[name])
    if "standing_batch_size" in given and options.standing_batches is None:
        raise UserError("--standing-batch-size is the size of --standing-batches; give both or neither.")
    if strange:
        flags = ", ".join("--" + name.replace("_", "-") for name in strange)
        raise UserError(f"{flags}: --arch {options.arch} has no use for it; leave it out.")


def _pair(flag: str, text: str | None) -> tuple[float, float] | None:
    """LOW:HIGH as two finite numbers, the first below the second."""
    import math

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(f"{flag} {text} is not LOW:HIGH; give two numbers, e.g. 0:90.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{flag} {text}: LOW must be below HIGH, and both finite.")
    return low, high


def _named(path: str | Path) -> str:
    """A file's name without the folders of this machine."""
    from teacher_sampler.remote.address import is_url

    return str(path) if is_url(path) else Path(path).name


def _content_digest(path: str | Path) -> str:
    """What was imported, whatever it is called."""
    from runtime.digests import digest_of, file_sha256
    from teacher_sampler.remote.address import is_url

    if is_url(path):
        return str(path)
    path = Path(path)
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return digest_of({str(file.relative_to(path)): file_sha256(file) for file in files})

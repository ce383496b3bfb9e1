"""From the address of a teacher service to a teacher folder that holds the address and the service's card."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest, no_truncation
from teacher_sampler.remote.address import is_url
from teacher_sampler.remote.client import RemoteTeacher, write_endpoint


@IMPORTERS.register("http")
def import_http(request: ImportRequest) -> ImportedTeacher:
    """The teacher behind `request.checkpoint`; UserError where that is no address, or no service answers there."""
    no_truncation("http", request)
    url = request.checkpoint.rstrip("/")
    if not is_url(url):
        raise UserError(f"--checkpoint {url} is no address; give the http://HOST:PORT that serve-teacher printed.")
    teacher = RemoteTeacher.connect(url)

    def write(folder: Path) -> str:
        write_endpoint(folder, url)
        return teacher.digest

    return ImportedTeacher(
        architecture=teacher.card.architecture,
        arguments=teacher.card.arguments,
        resolution_px=teacher.card.resolution_px,
        channels=teacher.card.channels,
        label_space=teacher.label_space,
        latent=teacher.card.latent,
        truncation=teacher.card.truncation,
        write=write,
        licence=teacher.card.licence,
        augmentations=tuple(teacher.card.allowed_augmentations),
    )

"""What an export format must offer, and the registry: a format is one file in this folder and one line below."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from image_data.fake.exports.rows import ExportRows
from runtime.errors import UserError
from runtime.registry import Registry


class ExportFormat(ABC):
    """One format.  Each export creates an instance, without arguments."""

    suffix: ClassVar[str] = ""  # of the one file that it writes; empty where it fills a folder
    shuffled: ClassVar[bool] = False  # rows in a drawn order, for formats that are read as a stream
    packages: ClassVar[tuple[str, ...]] = ()  # beyond requirements.txt: an extra of pyproject.toml, named as the format

    @abstractmethod
    def bytes_needed(self, rows: ExportRows) -> int:
        """Bytes on disk when the export is done, within a tenth or so."""

    @abstractmethod
    def write(self, place: Path, rows: ExportRows) -> None:
        """Write all rows to the new file, or into the empty folder, `place`; memory does not grow with their number."""

    def how_to_read(self, name: str, rows: ExportRows) -> str:
        """Python for the export's README that reads the folder `name`; empty where there is no README."""
        return ""


EXPORT_FORMATS: Registry[Callable[[], ExportFormat]] = Registry("export format")
EXPORT_FORMATS.declare("h5", "image_data.fake.exports.hdf5")
EXPORT_FORMATS.declare("imagefolder", "image_data.fake.exports.imagefolder")
EXPORT_FORMATS.declare("parquet", "image_data.fake.exports.parquet")
EXPORT_FORMATS.declare("webdataset", "image_data.fake.exports.webdataset")


def export_format(name: str) -> ExportFormat:
    """The format; UserError where there is none of that name, or a package of it is missing."""
    form = EXPORT_FORMATS.get(name)()
    for package in form.packages:
        if find_spec(package) is None:
            extra = f"pip install 'retort[{name}]'"
            raise UserError(f"--to {name} needs the package {package}; install it ({extra}) or choose another format.")
    return form

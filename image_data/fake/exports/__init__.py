"""Fakes in other programs' formats.  EXPORT_FORMATS holds the formats by name; each is a file here and a word below."""

from image_data.fake.exports import hdf5, imagefolder, parquet, webdataset
from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat, export_format
from image_data.fake.exports.rows import ExportRows
from image_data.fake.exports.writing import export_fakes, export_rows

__all__ = [
    "EXPORT_FORMATS",
    "ExportFormat",
    "ExportRows",
    "export_fakes",
    "export_format",
    "export_rows",
    "hdf5",
    "imagefolder",
    "parquet",
    "webdataset",
]

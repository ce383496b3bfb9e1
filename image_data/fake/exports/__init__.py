"""Fakes in other programs' formats, one file each and one line of each in `registry`."""

from image_data.fake.exports.registry import EXPORT_FORMATS, ExportFormat, export_format
from image_data.fake.exports.rows import ExportRows
from image_data.fake.exports.writing import export_fakes, export_rows

__all__ = ["EXPORT_FORMATS", "ExportFormat", "ExportRows", "export_fakes", "export_format", "export_rows"]

"""Fake datasets on disk: sealed shards, a manifest, score sets; readers, views, checks and export."""

from image_data.fake.dataset import FakeDataset, Scores, UnitLedger, open_fakes
from image_data.fake.describe import describe_fakes
from image_data.fake.exports import EXPORT_FORMATS, export_fakes
from image_data.fake.exports.hdf5 import export_h5
from image_data.fake.manifest import Manifest
from image_data.fake.manifest import read_manifest as open_manifest
from image_data.fake.selection import Selection
from image_data.fake.verify import verify_fakes
from image_data.fake.view import FakeView

__all__ = [
    "EXPORT_FORMATS",
    "FakeDataset",
    "FakeView",
    "Manifest",
    "Scores",
    "Selection",
    "UnitLedger",
    "describe_fakes",
    "export_fakes",
    "export_h5",
    "open_fakes",
    "open_manifest",
    "verify_fakes",
]

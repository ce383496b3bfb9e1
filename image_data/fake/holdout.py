"""A share of a selection of fakes held out, for want of real validation images.

Whether a fake is held out follows from its pixels alone (its stored CRC-32): equal images lie on one side, and neither
another selection nor an extension of the dataset moves an image.
"""

from __future__ import annotations

import numpy as np

from image_data.fake.dataset import FakeDataset
from image_data.fake.selection import Selection
from image_data.fake.view import FakeView

SHARE = 0.05
MOST = 5_000  # held-out fakes that are looked at: the standard error of an error rate is then below 1 %


def hold_out(fakes: FakeDataset, chosen: Selection) -> tuple[FakeView, FakeView | None]:
    """(what is trained on, what is held out) of the chosen rows; None where no image, or every one, is held out."""
    place = _places(fakes.row_crc32[chosen.rows])
    out = np.flatnonzero(place < SHARE)
    kept = np.flatnonzero(place >= SHARE)
    if not len(out) or not len(kept):
        return fakes.view(chosen), None
    out = np.sort(out[np.argsort(place[out], kind="stable")[:MOST]])
    return fakes.view(_part(chosen, kept)), fakes.view(_part(chosen, out))


def _places(checksums: np.ndarray) -> np.ndarray:
    """float64 N, evenly spread over [0, 1): checksums of like images may be alike, these are not."""
    mixed = checksums.astype(np.uint64)
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the finaliser of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def _part(chosen: Selection, places: np.ndarray) -> Selection:
    weights = None if chosen.weights is None else chosen.weights[places]
    return Selection(chosen.rows[places], chosen.labels[places], chosen.recipe, chosen.fakes_digest, weights)

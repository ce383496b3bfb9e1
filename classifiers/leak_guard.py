"""Refuses validation and test images that something which is to be judged, or which filters, has seen.

The rule is that of `image_data.seen`: no part was fitted on a validation image, and none was fitted or selected on a
test image.  There is no way round it but other images or other parts: a number with a leak in it is no number.
"""

from __future__ import annotations

from typing import Literal

from image_data.real import RealData
from image_data.seen import Seen, are_among
from runtime.errors import UserError
from runtime.safe_files import printable

_REMEDY = (
    "use the data and fold that these parts were made from, make the parts again from this data, or leave these images "
    "out of its validation and test images"
)
_HOW = {"train": "fitted on", "val": "selected on"}
_ALLOWED = {("val", "val")}  # all parts select on the same validation images
_WORDS = {"val": "validation", "test": "test"}


def refuse_seen_images(where: str, data: RealData, seen: Seen, test: bool = True, judged: bool = False) -> None:
    """Raise UserError with counts where a part of `seen` has had a validation image of `data`, or a test image.

    `where` names the data as the user does; `test`: whether the test images will be opened; `judged`: the images that
    a part consists of are what is measured, so that copies among them are counted (`seen_line`), not refused.
    """
    found: dict[tuple[str, str], list[str]] = {}  # (how, how many of which images) -> parts
    roles: tuple[Literal["val", "test"], ...] = ("val", "test") if test else ("val",)
    for part, known in seen.parts.items():
        if judged and part in seen.unknown:
            continue
        for how, verb in _HOW.items():
            counts = []
            for role in roles:
                mine = data.hashes(role)
                shared = int(are_among(mine, known[how]).sum()) if how in known and (how, role) not in _ALLOWED else 0
                if shared:
                    counts.append(f"{shared} of {len(mine)} {_WORDS[role]} images")
            if counts:
                found.setdefault((verb, " and ".join(counts)), []).append(part)
    if found:
        said = [f"{', '.join(parts)} {verb} {counts}" for (verb, counts), parts in found.items()]
        raise UserError(f"{where}: the images that are to score have been seen: {'; '.join(said)}; {_REMEDY}.")


def seen_line(data: RealData | None, seen: Seen, role: Literal["val", "test"]) -> str:
    """One line beside a number, e.g. "test images: 497, seen by none of GAN, predictor; unknown: GAN (imported)".

    Without real data there is nothing to compare with, and the line says what the parts have seen.
    """
    if data is None:
        counts = [f"{part} fitted on {len(known.get('train', ()))} images" for part, known in seen.parts.items()]
        line = ", ".join(["no real image was tested", *counts])
    else:
        mine = data.hashes(role)
        line = f"{_WORDS[role]} images: {len(mine)}"
        copies = {
            part: int(are_among(mine, known["train"]).sum()) for part, known in seen.parts.items() if "train" in known
        }
        clean = [part for part in seen.parts if not copies.get(part)]
        if clean:
            line += f", {'seen' if role == 'test' else 'trained on'} by none of {', '.join(clean)}"
        line += "".join(f", {count} of them are among the images of {part}" for part, count in copies.items() if count)
    if seen.unknown:
        line += "; unknown: " + ", ".join(f"{part} ({printable(why)})" for part, why in seen.unknown.items())
    return line if seen.names else f"{line}, no other part had a say"

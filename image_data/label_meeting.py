"""Where two label spaces meet: what differs first, what is let through, and what mends the rest.

Compared whole: kind, number and names of the classes in their order; dimension, unit, range and transform of values.
Two differences change no image and are only said: classes of one side that have plain numbers 0, 1, ... for names are
matched with the other's by place, and ranges may differ where all labels lie inside both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from interfaces import LabelSpace
from runtime.errors import UserError

_NAMED = 3  # class names in a sentence
_LISTED = 8  # class names in a list that is to be typed


@dataclass(frozen=True)
class LabelHolder:
    """Something that has a label space; `name` is what its user calls it ("--data photos"), `kind` decides what
    mends it.
    """

    kind: Literal["data", "teacher", "fakes", "network", "imported"]
    name: str
    space: LabelSpace


def predictor_holder(name: str, card: Mapping[str, Any], space: LabelSpace) -> LabelHolder:
    """The labels of a predictor: those of one of another program are named where it is imported."""
    return LabelHolder("imported" if card.get("foreign") else "network", name, space)


def labels_differ(here: LabelSpace, there: LabelSpace) -> str | None:
    """The first difference, e.g. "label 2 is '10' here and '2' there"; None where there is none."""
    if here.kind != there.kind:
        return f"labels are {_kind(here)} here and {_kind(there)} there"
    if here.kind == "classes":
        return _names_differ(_names(here), _names(there))
    here_values, there_values = here.to_json(), there.to_json()
    if here_values["dimension"] != there_values["dimension"]:
        return f"a label is {_values(here_values['dimension'])} here and {_values(there_values['dimension'])} there"
    if here_values["unit"] != there_values["unit"]:
        return f"values are in {_unit(here_values)} here and in {_unit(there_values)} there"
    if _range(here_values) != _range(there_values):
        return f"values run from {_span(here_values)} here and from {_span(there_values)} there"
    if here_values["transform"] != there_values["transform"]:
        return f"values are scaled {here_values['transform']} here and {there_values['transform']} there"
    return None


def check_same_labels(
    here: LabelHolder, there: LabelHolder, asked: np.ndarray | None = None, *, exact: bool = False
) -> str | None:
    """What has to be said of the two (None where they are equal); UserError where they do not go together.

    asked: the labels that pass between them, in the user's units; none may lie outside a range.  exact: no difference
    at all is let through, as where the weights of one network go into another.
    """
    difference = labels_differ(here.space, there.space)
    if difference is None:
        return None
    if exact or here.space.kind != there.space.kind:
        raise UserError(_refusal(here, there, difference))
    if here.space.kind == "classes":
        if not _by_place(_names(here.space), _names(there.space)):
            raise UserError(_refusal(here, there, difference))
        return _matched_by_place(here, there)
    here_values, there_values = here.space.to_json(), there.space.to_json()
    same_unit = here_values["unit"] == there_values["unit"] or not (here_values["unit"] and there_values["unit"])
    if (
        here_values["dimension"] != there_values["dimension"]
        or here_values["transform"] != there_values["transform"]
        or not same_unit
    ):
        raise UserError(_refusal(here, there, difference))
    for holder, space in ((here, here_values), (there, there_values)):
        _check_inside(holder, space, asked, here, there)
    return f"{here.name} (here) and {there.name} (there): {difference}; they are taken as the same values"


def meet(here: LabelHolder, there: LabelHolder, asked: np.ndarray | None = None, *, exact: bool = False) -> None:
    """`check_same_labels`, and its note on stderr."""
    from runtime.progress import note

    said = check_same_labels(here, there, asked, exact=exact)
    if said is not None:
        note(said)


def check_several_classes(holder: LabelHolder, command: str) -> None:
    """UserError where there is one class only, so that there is nothing to classify."""
    if holder.space.kind == "classes" and holder.space.width < 2:
        (name,) = _names(holder.space)
        raise UserError(
            f"{command} trains a network to tell classes apart, and {holder.name} has one only ({name}); fakes of one "
            f"class need no predictor (sample --predictor none), and train-student and evaluate take them as they are."
        )


def _names(space: LabelSpace) -> list[str]:
    """Class names; letters that look alike are one letter, however a file system writes them."""
    return [unicodedata.normalize("NFC", str(name)) for name in space.to_json()["names"]]


def _names_differ(here: Sequence[str], there: Sequence[str]) -> str | None:
    if list(here) == list(there):
        return None
    shorter = min(len(here), len(there))
    row = next((row for row in range(shorter) if here[row] != there[row]), shorter)
    name_here, name_there = (repr(names[row]) if row < len(names) else "missing" for names in (here, there))
    first = f"label {row} is {name_here} here and {name_there} there"
    if len(here) != len(there):
        return f"there are {_classes(len(here))} here and {_classes(len(there))} there, and {first}"
    return f"{first} (the same names in another order)" if sorted(here) == sorted(there) else first


def _by_place(here: Sequence[str], there: Sequence[str]) -> bool:
    """Whether one side has plain numbers in their order for names, and nothing in the other's names speaks against it:
    names that are numbers themselves, or differ in a number alone, have to be in the order of these.
    """
    if len(here) != len(there):
        return False
    if len(here) == 1:  # there is no other place, whatever a folder is called
        return True
    plain = [str(row) for row in range(len(here))]
    if plain not in (list(here), list(there)):
        return False
    named = list(there) if list(here) == plain else list(here)
    if all(name.isdecimal() for name in named):
        return [int(name) for name in named] == list(range(len(named)))
    cut = [re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in named]
    matches = [match for match in cut if match is not None]
    if len(named) < 2 or len(matches) < len(named) or len({(match[1], match[3]) for match in matches}) > 1:
        return True
    numbers = [int(match[2]) for match in matches]
    return numbers == sorted(numbers)


def _matched_by_place(here: LabelHolder, there: LabelHolder) -> str:
    plain = [str(row) for row in range(here.space.width)]
    numbered, named = (here, there) if _names(here.space) == plain else (there, here)
    names = _names(named.space)
    typed = "FILE (one name a line)" if len(names) > _LISTED or any("," in name for name in names) else ",".join(names)
    remedy = {
        "teacher": f"; name them with import-teacher --class-names {typed}",
        "fakes": f"; a teacher imported with import-teacher --class-names {typed} gives them these names",
        "data": "; name them with class_names in the data's dataset.json",
        "imported": f"; name them with import-predictor --class-names {typed}",
        "network": "",
    }[numbered.kind]
    return (
        f"classes are called {_some(_names(numbered.space))} in {numbered.name} and {_some(names)} in {named.name}; "
        f"they are matched by place{remedy}"
    )


def _check_inside(
    holder: LabelHolder, space: dict[str, Any], asked: np.ndarray | None, here: LabelHolder, there: LabelHolder
) -> None:
    if asked is None or not np.size(asked):
        return
    low, high = _range(space)
    slack = 1e-9 * max(abs(low), abs(high), high - low)
    least, most = float(np.min(asked)), float(np.max(asked))
    if least < low - slack or most > high + slack:
        other = there if holder is here else here
        raise UserError(
            f"labels of {other.name} run from {least:g} to {most:g}, and {holder.name} knows {_span(space)}; "
            f"{_remedies(here, there)}."
        )


def _refusal(here: LabelHolder, there: LabelHolder, difference: str) -> str:
    return f"{here.name} (here) and {there.name} (there) have different labels: {difference}; {_remedies(here, there)}."


_MENDS = {  # kind of holder: where names differ, where values do, where one has names and the other values
    "teacher": (
        "choose, order and name the teacher's labels with --label-map FILE or import-teacher --class-names NAMES",
        "import the teacher with --label-range and --label-unit in these units",
        "give a teacher with labels of this kind",
    ),
    "fakes": (
        "sample the fakes anew, their classes chosen, ordered and named with --label-map FILE or import-teacher "
        "--class-names NAMES",
        "sample the fakes anew within this range and unit (sample --labels, import-teacher --label-unit)",
        "give fakes with labels of this kind",
    ),
    "imported": (  # a classifier of another program
        "import it with --class-names NAMES in its own order, or choose and order its classes with --label-map FILE",
        "import it with --label-range and --label-unit in these units",
        "import one with labels of this kind",
    ),
    "network": ("give another {flag}, trained on these labels",) * 3,
    "data": (
        "name the classes with class_names in the data's dataset.json",
        "state unit, low and high in the data's dataset.json",
        "give the data that belongs to it",
    ),
}


def _remedies(here: LabelHolder, there: LabelHolder) -> str:
    """What mends a difference: the side that is easily changed first."""
    kinds = {here.space.kind, there.space.kind}
    form = 2 if len(kinds) > 1 else 0 if kinds == {"classes"} else 1
    holders = sorted((here, there), key=lambda holder: list(_MENDS).index(holder.kind))
    return ", or ".join(_MENDS[holder.kind][form].format(flag=_flag(holder)) for holder in holders)


def _flag(holder: LabelHolder) -> str:
    return holder.name.split()[0] if holder.name.startswith("--") else "network"


def _kind(space: LabelSpace) -> str:
    return _classes(space.width) if space.kind == "classes" else _values(space.width)


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _values(count: int) -> str:
    return "a value" if count == 1 else f"{count} values"


def _unit(space: dict[str, Any]) -> str:
    return repr(space["unit"]) if space["unit"] else "no stated unit"


def _range(space: dict[str, Any]) -> tuple[float, float]:
    return float(space["low"]), float(space["high"])


def _span(space: dict[str, Any]) -> str:
    return f"{space['low']:g} to {space['high']:g} {space['unit']}".strip()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])}, ..."

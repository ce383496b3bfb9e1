"""Labels in a `labels.csv`: a header line, the file's path in the first column, labels in the others.

One column of numbers or of names, several columns of numbers (a vector), or one column for each class with a single 1
in each row.  Comma, semicolon (then a comma may be the decimal mark) and tab separate; a byte order mark is fine.
Where the first folder of a path is train, val or test, it is the role.
"""

from __future__ import annotations

import csv
import re
from pathlib import PurePosixPath

import numpy as np

from image_data.real.description import Description
from image_data.real.label_kinds import LabelOrigin
from image_data.real.listing import Listing, labelled_files, role_of
from image_data.real.tree import ImageTree, read_small
from runtime.errors import UserError
from runtime.safe_files import printable

TABLE = "labels.csv"
_LIMIT_BYTES = 256 << 20
_FILE_WORDS = {"file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "image_name"}
# A column of this name holds values, also where its numbers are few and whole; and one of these names classes.
_QUANTITIES = {
    "age", "ages", "angle", "angles", "yaw", "pitch", "roll", "degree", "degrees", "year", "years", "month", "months",
    "day", "days", "hour", "hours", "time", "count", "counts", "value", "values", "score", "temperature", "height",
    "weight", "width", "length", "size", "distance", "depth", "speed", "price",
}  # fmt: skip
_CLASS_WORDS = {"class", "classes", "category", "categories", "species", "breed"}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


def list_table(tree: ImageTree, description: Description, whole: bool = False) -> Listing:
    """The files that the table lists, in its order; UserError naming the line that is amiss."""
    where = tree.place(TABLE)
    lines, mark = _lines(read_small(tree, TABLE, _LIMIT_BYTES), where)
    header, known_files = [cell.strip() for cell in lines[0]] if lines else [], set(tree.names)
    if len(header) < 2 or header[0].lower() not in _FILE_WORDS:
        raise UserError(f"{where} must begin with a header line such as file,angle: the path first, then the label.")
    rows: list[tuple[str, str]] = []
    cells: list[list[str]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        at = f"{where} line {number}"
        if len(line) != len(header):
            raise UserError(f"{at} has {len(line)} columns where the header has {len(header)}.")
        name = _file_name(line[0].strip(), known_files, tree, at)
        if name in seen:
            raise UserError(f"{at}: {printable(name)} stands there twice; remove one.")
        seen.add(name)
        rows.append(("train" if whole else role_of(name), name))
        cells.append([_cell(cell.strip(), mark) for cell in line[1:]])
    labels = _numbers(cells, lines, where) if cells else np.empty(0)
    return labelled_files(tree, rows, labels, description, _origin(header, labels, where))


def _lines(data: bytes, where: str) -> tuple[list[list[str]], str]:
    """The table's cells, and what separates them."""
    try:
        text = data.decode("utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        mark = max(",;\t", key=lambda mark: first.count(mark))  # the comma where there is none of them
        return list(csv.reader(text.lstrip("\r\n").splitlines(keepends=True), delimiter=mark)), mark
    except (ValueError, csv.Error) as error:
        raise UserError(f"{where} is no readable CSV ({printable(error)}); save it as UTF-8.") from error


def _file_name(text: str, known: set[str], tree: ImageTree, at: str) -> str:
    for spelled in (text, text.replace("\\", "/")):
        path = PurePosixPath(spelled)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{at}: {printable(text)} must be a path inside the folder.")
        if str(path) in known:
            return str(path)
    raise UserError(f"{at}: {printable(tree.place(text))} is not there; add the image or remove the line.")


def _cell(text: str, mark: str) -> str:
    return text.replace(",", ".") if mark == ";" and _DECIMAL_COMMA.fullmatch(text) else text


def _numbers(cells: list[list[str]], lines: list[list[str]], where: str) -> np.ndarray:
    """int64 or float64 N (N x d), or texts N where the one column holds no number at all."""
    flat = [text for row in cells for text in row]
    if all(_WHOLE.fullmatch(text) for text in flat):
        labels = np.array(cells, dtype=np.int64)
    else:
        odd = [row for row, texts in enumerate(cells) if not all(_NUMBER.fullmatch(text) for text in texts)]
        if odd and (len(cells[0]) > 1 or len(odd) < len(cells)):
            text = next(text for text in cells[odd[0]] if not _NUMBER.fullmatch(text))
            number = [at for at, line in enumerate(lines[1:], start=2) if any(cell.strip() for cell in line)][odd[0]]
            raise UserError(
                f"{where} line {number}: a label is no number ({printable(repr(text), 60)}); give numbers in all "
                "columns, or one column of names."
            )
        if odd and all(_DECIMAL_COMMA.fullmatch(text) for text in flat):
            raise UserError(f"{where}: labels such as {printable(flat[0], 60)} have a decimal comma; write a point.")
        labels = np.array(cells, dtype=str if odd else np.float64)
    return labels[:, 0] if labels.shape[1] == 1 else labels


def _origin(header: list[str], labels: np.ndarray, where: str) -> LabelOrigin:
    """What the names of the columns tell."""
    if len(header) > 2:
        return LabelOrigin(where, "labels", None, tuple(header[1:]))
    words = set(re.split(r"[^a-z]+", header[1].lower()))
    known = None
    if labels.dtype.kind != "U" and words & _QUANTITIES:
        known = ("continuous", f"since the column is called {printable(header[1], 60)}")
    elif labels.dtype.kind in "iU" and words & _CLASS_WORDS:
        known = ("classes", f"since the column is called {printable(header[1], 60)}")
    return LabelOrigin(where, f"column {printable(header[1], 60)!r}: labels", known)

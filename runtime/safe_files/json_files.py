"""JSON that others wrote, as plain values.

Nesting and the number of values are bounded before the parser sees the text.  Refused are NaN and infinity under any
spelling (1e9999 too), whole numbers beyond 64 bits, a key that stands twice in one object, lone surrogates and NUL
characters in texts.  A byte order mark is accepted.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.safe_files.plain import decode_text, read_limited
from runtime.safe_files.terminal import printable

JSON_LIMIT_BYTES = 64 << 20
DEEPEST = 60  # levels of lists and objects
MOST_VALUES = 8_000_000
_LONGEST_WHOLE = 20  # digits of 2^64
_RESTORE = "restore it"

_STRINGS = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL
)  # an open one runs to the end, so that none is tried twice
_NOT_BRACKETS = {code: None for code in range(128) if chr(code) not in "[]{}"}
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_ODD_ESCAPES = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


def read_json(path: Path, remedy: str = _RESTORE, limit_bytes: int = JSON_LIMIT_BYTES) -> Any:
    """The value of a JSON file; MissingFile or UserError with one sentence that ends in the remedy."""
    return parse_json(read_limited(path, limit_bytes, remedy), printable(path), remedy)


def read_json_object(path: Path, remedy: str = _RESTORE, limit_bytes: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    """`read_json` of a file that holds one object."""
    content = read_json(path, remedy, limit_bytes)
    if not isinstance(content, dict):
        raise UserError(f"{printable(path)} holds {_kind(content)} where a JSON object belongs; {remedy}.")
    return content


def read_json_lines(path: Path, limit_bytes: int = JSON_LIMIT_BYTES) -> list[dict[str, Any]]:
    """The objects of a log of one a line; lines that a kill cut short, or that are anything else, are left out."""
    rows = []
    for line in read_limited(path, limit_bytes).splitlines():
        try:
            row = parse_json(line, "a line")
        except UserError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def parse_json(data: bytes | str, name: str, remedy: str = _RESTORE) -> Any:
    """The value of JSON text; `name` says in the sentence where it comes from."""
    text = data.removeprefix("\ufeff") if isinstance(data, str) else decode_text(data, name, remedy)
    if not text.strip():
        raise UserError(f"{name} is empty; {remedy}.")
    try:
        _check_size(text)
        value = json.loads(
            text, parse_int=_whole, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
        )
        if _ODD_ESCAPES.search(text):
            _check_characters(value)
        return value
    except json.JSONDecodeError as error:
        what = f"{error.msg} in line {error.lineno}"
    except (ValueError, RecursionError) as error:
        what = str(error)
    raise UserError(f"{name} is no readable JSON ({what}); {remedy}.")


def _check_size(text: str) -> None:
    bare = _STRINGS.sub("", text)
    if bare.count(",") + bare.count("[") + bare.count("{") > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    brackets = bare.translate(_NOT_BRACKETS)
    if max(accumulate(_STEP.get(mark, 0) for mark in brackets), default=0) > DEEPEST:
        raise ValueError(f"lists or objects are nested more than {DEEPEST} deep")


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _LONGEST_WHOLE or abs(int(text)) > 1 << 64:
        raise ValueError("a whole number is beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is beyond what a float holds")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else ""
        raise ValueError(f"a key stands twice: {printable(twice, 60)}" if twice else "a key stands twice")
    return members


def _check_characters(value: Any) -> None:
    """Texts that could be written to no file, or would end a file's name, are refused here and not where they fail."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a surrogate pair") from error
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise ValueError("a text holds a NUL character")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else "a text" if isinstance(value, str) else "a single value"

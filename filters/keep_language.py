"""The language of `--keep`: comparisons of a row's numbers, joined by `and`, `or`, `not` and parentheses.

    density_ratio > 0.1 and error rank < 0.9
    label >= 3 and not (duplicate_distance < 1 or error global rank >= 0.5)

    keep       = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | "(" keep ")" | comparison
    comparison = field [ [ "global" ] "rank" ] ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) number

A text becomes a small tree and nothing else: there is no name to call and no way out of the four fields' numbers.
What cannot be read is a UserError that names the position.  `show` writes a tree so that `parse` gives it back.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from runtime.errors import UserError

FIELDS = ("density_ratio", "error", "memorisation_distance", "duplicate_distance", "label")
OPERATORS = ("<", "<=", ">", ">=", "==", "!=")
Rank = Literal["class", "global"]

_LONGEST, _DEEPEST = 1000, 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<word>[A-Za-z_]+)|(?P<sign>[<>=!]=|[<>()]))"
)
_EXAMPLE = 'write it like "density_ratio > 0.1 and error rank < 0.9"'


@dataclass(frozen=True)
class Compare:
    """`field operator number`; with `rank` the field's quantile rank within its label, or in the whole dataset."""

    field: str
    operator: str
    number: float
    rank: Rank | None = None


@dataclass(frozen=True)
class Not:
    """The rows that `part` does not keep."""

    part: Keep


@dataclass(frozen=True)
class Joined:
    """The rows that all `parts` keep (`and`), or any of them (`or`); two parts or more."""

    word: Literal["and", "or"]
    parts: tuple[Keep, ...]


Keep = Compare | Not | Joined


@dataclass(frozen=True)
class _Token:
    kind: str  # number, word, sign or end
    text: str
    position: int  # from 1


def parse(text: str) -> Keep:
    """The tree of a `--keep` text; UserError naming the position where it cannot be read."""
    if len(text) > _LONGEST:
        raise UserError(f"--keep is {len(text)} characters long, and {_LONGEST} are allowed; {_EXAMPLE}.")
    reader = _Reader(text)
    tree = reader.any(0)
    if reader.next.kind != "end":
        raise reader.error("and, or, or the end")
    return tree


def show(tree: Keep) -> str:
    """The text of a tree, with no more parentheses than needed; `parse(show(tree)) == tree`."""
    if isinstance(tree, Compare):
        rank = {None: "", "class": " rank", "global": " global rank"}[tree.rank]
        return f"{tree.field}{rank} {tree.operator} {tree.number!r}"
    if isinstance(tree, Not):
        return f"not ({show(tree.part)})" if isinstance(tree.part, Joined) else f"not {show(tree.part)}"
    inner = [f"({show(part)})" if _needs_brackets(part, tree.word) else show(part) for part in tree.parts]
    return f" {tree.word} ".join(inner)


def _needs_brackets(part: Keep, word: str) -> bool:
    return isinstance(part, Joined) and (word == "and" or part.word == "or")


def fields_of(tree: Keep) -> set[str]:
    """The fields that a tree looks at."""
    if isinstance(tree, Compare):
        return {tree.field}
    return set().union(*map(fields_of, [tree.part] if isinstance(tree, Not) else tree.parts))


def checked(text: str) -> str:
    """The text itself where it can be read: lets a command refuse a bad one before any work."""
    parse(text)
    return text


class _Reader:
    """Recursive descent over the tokens; `next` is the token that is looked at."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.next = self._token()

    def any(self, depth: int) -> Keep:
        """keep = all { "or" all }"""
        parts = [self.all(depth)]
        while self._take("or"):
            parts.append(self.all(depth))
        return parts[0] if len(parts) == 1 else Joined("or", tuple(parts))

    def all(self, depth: int) -> Keep:
        """all = one { "and" one }"""
        parts = [self.one(depth)]
        while self._take("and"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))

    def one(self, depth: int) -> Keep:
        """one = "not" one | "(" keep ")" | comparison"""
        if depth > _DEEPEST:
            raise self.error(f"no deeper nesting than {_DEEPEST}")
        if self._take("not"):
            return Not(self.one(depth + 1))
        if self._take("("):
            tree = self.any(depth + 1)
            if not self._take(")"):
                raise self.error("a closing parenthesis")
            return tree
        return self._comparison()

    def _comparison(self) -> Compare:
        field = self.next.text
        if self.next.kind != "word" or field not in FIELDS:
            raise self.error(f"a field ({', '.join(FIELDS)}), not, or a parenthesis")
        self._advance()
        rank = self._rank(field)
        operator = self.next.text
        if operator not in OPERATORS:
            raise self.error(f"one of {' '.join(OPERATORS)}" + ("" if rank else ", rank, or global rank"))
        self._advance()
        number = self.next
        if number.kind != "number":
            raise self.error("a number")
        if not math.isfinite(float(number.text)):
            raise self.error("a finite number")
        self._advance()
        return Compare(field, operator, float(number.text), rank)

    def _rank(self, field: str) -> Rank | None:
        if self.next.text not in ("rank", "global"):
            return None
        if field == "label":
            raise self.error("an operator, since a label has no rank")
        if self._take("rank"):
            return "class"
        self._advance()
        if not self._take("rank"):
            raise self.error("rank after global")
        return "global"

    def _take(self, text: str) -> bool:
        if self.next.text != text:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        self.next = self._token()

    def _token(self) -> _Token:
        rest = self.text[self.place :]
        blank = len(rest) - len(rest.lstrip())
        position = self.place + blank + 1
        if blank == len(rest):
            return _Token("end", "", len(self.text) + 1)
        match = _TOKEN.match(self.text, self.place)
        if match is None:
            self.next = _Token("unknown", rest[blank], position)
            raise self.error("a field, an operator, a number or a parenthesis")
        self.place = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], position)

    def error(self, expected: str) -> UserError:
        """What was expected, and what stands there instead."""
        stands = repr(self.next.text) if self.next.text else "the end"
        return UserError(
            f"--keep {self.text!r}: at position {self.next.position} stands {stands} where {expected} is expected; "
            f"{_EXAMPLE}."
        )

"""YAML that others wrote, as plain values: None, bool, int, float, text, list and dict.

The nodes are bounded in number, depth and length, and counted as aliases expand them, before any value is built; a node
that holds itself is refused.  Keys are text as they are written; a key that stands twice in one mapping is refused, and
so are infinity, NaN and every tag that is not plain data.  Dates stay the text that they are.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import UserError
from runtime.safe_files.plain import MissingFile, decode_text, read_limited
from runtime.safe_files.terminal import printable

YAML_LIMIT_BYTES = 4 << 20
DEEPEST = 40
MOST_NODES = 100_000  # as written, and as aliases expand them
_LONGEST_SCALAR = 65_536
_LONGEST_WHOLE = 40  # characters, so that no number of thousands of digits is worked out
_MEND = "mend it"
_TAG = "tag:yaml.org,2002:"
_READ_AS_TEXT = {f"{_TAG}{name}" for name in ("int", "float", "bool", "null")}
_REFUSED = ("binary", "timestamp", "omap", "pairs", "set")

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_OCTAL = re.compile(r"[+-]?0[0-7_]+")


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader without dates and without the types that JSON has not."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: make for tag, make in _Base.yaml_constructors.items() if tag not in {f"{_TAG}{name}" for name in _REFUSED}
    }


def read_yaml(path: Path, name: str = "", remedy: str = _MEND) -> Any:
    """The value of a YAML file; `name` is the option that named it.  MissingFile or UserError of one sentence."""
    where = f"{name} {printable(path)}".strip()
    try:
        data = read_limited(path, YAML_LIMIT_BYTES, "give the path of a YAML file")
    except MissingFile as error:
        raise MissingFile(f"{where} does not exist; give the path of a YAML file.") from error
    except UserError as error:
        raise UserError(f"{name} {error}".strip()) from error
    return parse_yaml(data, where, remedy)


def parse_yaml(data: bytes, name: str, remedy: str = _MEND) -> Any:
    """The value of one YAML document (None where it is empty); `name` says where it comes from."""
    text = decode_text(data, name, remedy)
    loader: Any = None
    try:
        _check_events(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return _plain(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = f"{error.problem or error.context or 'malformed'}{place}"
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0] if str(error) else "malformed"
    except (KeyError, IndexError) as error:  # the constructor of an explicit tag, as in `!!bool text`
        what = f"a value does not fit its tag: {error}"
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = str(error)
    finally:
        if loader is not None:
            loader.dispose()
    raise UserError(f"{name} is no readable YAML ({printable(what)}); {remedy}.")


def _check_events(text: str) -> None:
    """Depth, number and length as written: the event stream is flat, whatever it describes."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            count -= 1
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > _LONGEST_SCALAR:
                raise ValueError(f"a text is longer than {_LONGEST_SCALAR} characters")
            if "\0" in event.value:
                raise ValueError("a text holds a NUL character")
        count += 1
        if depth > DEEPEST:
            raise ValueError(f"lists or mappings are nested more than {DEEPEST} deep")
        if count > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES:,} values")


def _check_nodes(root: yaml.Node) -> None:
    """Count what the aliases expand to, each node once (children before parents, without recursion)."""
    known: dict[int, tuple[int, int]] = {}  # node -> nodes in it, levels in it
    open_nodes: set[int] = set()
    stack: list[tuple[yaml.Node, bool]] = [(root, False)]
    while stack:
        node, entered = stack.pop()
        if id(node) in known:
            continue
        parts = _children(node)
        if not entered:
            if id(node) in open_nodes:
                raise ValueError("an alias holds itself")
            open_nodes.add(id(node))
            stack.append((node, True))
            stack.extend((part, False) for part in parts if id(part) not in known)
            continue
        open_nodes.discard(id(node))
        _check_node(node)
        sizes = [known[id(part)] for part in parts]
        size, levels = 1 + sum(size for size, _ in sizes), 1 + max((level for _, level in sizes), default=0)
        if size > MOST_NODES:
            raise ValueError(f"its aliases expand to more than {MOST_NODES:,} values")
        if levels > DEEPEST:
            raise ValueError(f"lists or mappings are nested more than {DEEPEST} deep")
        known[id(node)] = (size, levels)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_node(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag in (f"{_TAG}int", f"{_TAG}float"):
        if len(node.value) > _LONGEST_WHOLE:
            raise ValueError(f"a number has more than {_LONGEST_WHOLE} characters")
        if ":" in node.value or _OCTAL.fullmatch(node.value):
            raise ValueError(f"{node.value} is read in sixties or eighths by YAML; write a plain number, or quote it")
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError("a key is no text")
            if key.value in seen:
                raise ValueError(f"a key stands twice: {printable(key.value, 60)}")
            seen.add(key.value)
            if key.tag in _READ_AS_TEXT:  # as in JSON: `50:` is the name "50", and `on:` is no truth
                key.tag = f"{_TAG}str"


def _plain(value: Any) -> Any:
    """Refuse what JSON could not hold: infinity, whole numbers beyond 64 bits, half a surrogate pair."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, dict | list):
            if id(item) in seen:
                continue
            seen.add(id(item))
            todo.extend([*item.keys(), *item.values()] if isinstance(item, dict) else item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number is infinite or none")
        elif isinstance(item, int) and abs(item) > 1 << 64:
            raise ValueError("a whole number is beyond 64 bits")
        elif isinstance(item, str):
            item.encode()
    return value

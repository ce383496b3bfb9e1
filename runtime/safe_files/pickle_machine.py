"""A pickle machine for plain data: it runs a short list of opcodes and calls nothing but the functions of a table.

Python's own unpickler imports whatever a file names and calls it.  This one never imports: a name that is not in the
table, and an opcode that plain data does not need, end the reading.  Every length is held against the bytes that are
left before anything is taken; keys and set elements are words or small whole numbers, so that none is slow to hash;
and one budget of steps bounds all readings of a file together.  Protocols 2 to 5.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SMALLEST_PROTOCOL, LARGEST_PROTOCOL = 2, 5
LONGEST_NAME = 200  # bytes of a module's or class's name
_KEY_LIMIT = 2**60  # a dictionary hashes larger whole numbers by their remainder: colliding ones are easily chosen


class Refused(Exception):
    """The bytes ask for what plain data has no need of.  The message completes "the file ..."."""


class Damaged(Exception):
    """The bytes break off or make no sense.  The message completes "the file ..."."""


@dataclass
class Budget:
    """What the readings of one file may still cost."""

    steps: int  # opcodes, and items handled at once
    copied_bytes: int  # built out of text; a value of the file may be used many times, and copied each time

    def spend(self, steps: int = 1, copied_bytes: int = 0) -> None:
        """Refused where nothing is left."""
        self.steps -= steps
        self.copied_bytes -= copied_bytes
        if self.steps < 0 or self.copied_bytes < 0:
            raise Refused("it takes more work to read than its size allows")


class Known:
    """What a name in the file stands for: a function of our own.  `empty`: called without arguments only."""

    __slots__ = ("call", "empty")

    def __init__(self, call: Callable[..., Any], empty: bool = False) -> None:
        self.call, self.empty = call, empty


class Adjustable(ABC):
    """A stub that takes a state tuple after its construction (the BUILD opcode)."""

    @abstractmethod
    def set_state(self, state: tuple[Any, ...]) -> None:
        """Damaged where the state is none that it knows."""


FindKnown = Callable[[str, str], Known]  # (module, name) -> what it stands for; Refused where it is not allowed


class PickleMachine:
    """Reads one pickle out of `data` from byte `position` on; afterwards `position` is the first byte behind it.

    Byte strings come back as memoryviews into `data`.  `persistent(id)`: what a persistent id stands for.
    `stateless`: a type whose values may be given a state (of attributes), which is left aside.
    """

    def __init__(
        self,
        data: memoryview,
        find: FindKnown,
        budget: Budget,
        position: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        stateless: type | None = None,
    ) -> None:
        self.data, self.find, self.budget, self.stateless = data, find, budget, stateless
        self.position, self.persistent = position, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.stopped = False

    def load(self) -> Any:
        """The pickled value; Refused or Damaged."""
        if self.data[self.position : self.position + 1] != b"\x80":
            raise Damaged("it does not begin as a pickle does")
        while not self.stopped:
            self.budget.spend()
            code = self.take(1)[0]
            run = _OPCODES.get(code)
            if run is None:
                raise Refused(f"it uses the pickle opcode 0x{code:02x}")
            run(self)
        if len(self.stack) != 1 or self.marks:
            raise Damaged("it ends with more than one value")
        return self.stack[0]

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise Damaged("it breaks off")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, layout: str) -> Any:
        """The next number in the layout of `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Text up to the next line feed."""
        window = bytes(self.data[self.position : self.position + LONGEST_NAME + 1])
        length = window.find(b"\n")
        if length < 0:
            raise Damaged("it holds a name without an end")
        self.position += length + 1
        return window[:length].decode("utf-8")

    def pop(self) -> Any:
        """The top of the stack, but nothing below the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Damaged("it takes a value that is not there")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The top of the stack, which must be exactly of this type; it stays there."""
        value = self.pop()
        if type(value) is not kind:
            raise Damaged(f"it adds items to what is no {kind.__name__}")
        self.stack.append(value)
        return value

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark, and the mark."""
        if not self.marks:
            raise Damaged("it closes a group that was not opened")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


_Run = Callable[[PickleMachine], None]
_OPCODES: dict[int, _Run] = {}


def _opcode(code: bytes) -> Callable[[_Run], _Run]:
    def enter(run: _Run) -> _Run:
        _OPCODES[code[0]] = run
        return run

    return enter


def _pushes(code: bytes, value: Callable[[PickleMachine], Any]) -> None:
    """An opcode that pushes `value(machine)`."""
    _OPCODES[code[0]] = lambda machine: machine.stack.append(value(machine))


def _text(machine: PickleMachine, layout: str) -> str:
    return str(bytes(machine.take(machine.number(layout))), "utf-8", "surrogatepass")


def _tuple(machine: PickleMachine, count: int) -> tuple[Any, ...]:
    return tuple(reversed([machine.pop() for _ in range(count)]))


def _remembered(machine: PickleMachine, index: int) -> Any:
    if index not in machine.memo:
        raise Damaged("it refers to a value that is not there")
    return machine.memo[index]


_pushes(b"N", lambda machine: None)
_pushes(b"\x88", lambda machine: True)
_pushes(b"\x89", lambda machine: False)
_pushes(b"J", lambda machine: machine.number("<i"))
_pushes(b"K", lambda machine: machine.number("<B"))
_pushes(b"M", lambda machine: machine.number("<H"))
_pushes(b"\x8a", lambda machine: int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))
_pushes(b"G", lambda machine: machine.number(">d"))
_pushes(b"X", lambda machine: _text(machine, "<I"))
_pushes(b"\x8c", lambda machine: _text(machine, "<B"))
_pushes(b"B", lambda machine: machine.take(machine.number("<I")))
_pushes(b"C", lambda machine: machine.take(machine.number("<B")))
_pushes(b"T", lambda machine: str(machine.take(machine.number("<I")), "latin-1"))  # Python 2 had one kind of text
_pushes(b"U", lambda machine: str(machine.take(machine.number("<B")), "latin-1"))
_pushes(b"]", lambda machine: [])
_pushes(b"}", lambda machine: {})
_pushes(b"\x8f", lambda machine: set())
_pushes(b")", lambda machine: ())
_pushes(b"\x85", lambda machine: _tuple(machine, 1))
_pushes(b"\x86", lambda machine: _tuple(machine, 2))
_pushes(b"\x87", lambda machine: _tuple(machine, 3))
_pushes(b"t", lambda machine: tuple(machine.pop_mark()))
_pushes(b"h", lambda machine: _remembered(machine, machine.number("<B")))
_pushes(b"j", lambda machine: _remembered(machine, machine.number("<I")))


@_opcode(b"\x80")
def _protocol(machine: PickleMachine) -> None:
    if not SMALLEST_PROTOCOL <= machine.number("<B") <= LARGEST_PROTOCOL:
        raise Damaged("it is written in an unknown pickle protocol")


@_opcode(b"\x95")
def _frame(machine: PickleMachine) -> None:
    """Frames only help readers from slow files."""
    if machine.number("<Q") > len(machine.data) - machine.position:
        raise Damaged("it breaks off")


@_opcode(b".")
def _stop(machine: PickleMachine) -> None:
    machine.stopped = True


@_opcode(b"(")
def _mark(machine: PickleMachine) -> None:
    machine.marks.append(len(machine.stack))


def _remember(machine: PickleMachine, index: int) -> None:
    value = machine.pop()
    machine.stack.append(value)
    machine.memo[index] = value


_OPCODES[b"q"[0]] = lambda machine: _remember(machine, machine.number("<B"))
_OPCODES[b"r"[0]] = lambda machine: _remember(machine, machine.number("<I"))
_OPCODES[b"\x94"[0]] = lambda machine: _remember(machine, len(machine.memo))


@_opcode(b"a")
def _append(machine: PickleMachine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


@_opcode(b"e")
def _extend(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _key(value: Any) -> Any:
    if type(value) is str or (type(value) is int and -_KEY_LIMIT <= value < _KEY_LIMIT):
        return value
    raise Refused("it has a key or a set element that is neither a word nor a small whole number")


@_opcode(b"s")
def _set_item(machine: PickleMachine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.top(dict)[_key(key)] = value


@_opcode(b"u")
def _set_items(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    if len(items) % 2:
        raise Damaged("it has a key without a value")
    machine.top(dict).update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))


@_opcode(b"\x90")
def _add_items(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.top(set).update(_key(item) for item in items)


def checked_set(items: Any, budget: Budget) -> set[Any]:
    """A set of a list, with the rule for its elements; for protocols that have no opcode for sets."""
    if type(items) is not list:
        raise Damaged("it makes a set of what is no list")
    budget.spend(len(items))
    return {_key(item) for item in items}


@_opcode(b"c")
def _global(machine: PickleMachine) -> None:
    module = machine.line()
    machine.stack.append(machine.find(module, machine.line()))


@_opcode(b"\x93")
def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise Damaged("it names something with what is no word")
    machine.stack.append(machine.find(module, name))


@_opcode(b"R")
def _reduce(machine: PickleMachine) -> None:
    arguments, known = machine.pop(), machine.pop()
    if type(known) is not Known or type(arguments) is not tuple:
        raise Refused("it calls what is no known name")
    if known.empty and arguments:
        raise Damaged("it gives arguments to a plain container")
    machine.stack.append(known.call(*arguments))


@_opcode(b"\x81")
def _new_object(machine: PickleMachine) -> None:
    arguments, known = machine.pop(), machine.pop()
    if type(known) is not Known or not known.empty or type(arguments) is not tuple or arguments:
        raise Refused("it makes an object that is no plain dictionary")
    machine.stack.append(known.call())


@_opcode(b"b")
def _build(machine: PickleMachine) -> None:
    state, target = machine.pop(), machine.pop()
    if isinstance(target, Adjustable) and type(state) is tuple:
        target.set_state(state)
    elif machine.stateless is None or not isinstance(target, machine.stateless):
        raise Refused("it sets the state of what has none")
    machine.stack.append(target)


@_opcode(b"Q")
def _persistent(machine: PickleMachine) -> None:
    if machine.persistent is None:
        raise Refused("it refers to a value outside the file")
    machine.stack.append(machine.persistent(machine.pop()))

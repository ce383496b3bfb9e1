"""Which of the networks in a checkpoint is taken: the averaged generator (or classifier), whatever it is called.

A training writes many state dicts into one file, one below the other or side by side under dotted names.  Those with
the tensors of the wanted network are recognised by these names; of several, the one whose name says that it is an
average is taken (or that torch's AveragedModel has marked).  Where that leaves a choice, the user makes it with
--entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.safe_files.state_dicts import COUNTER, WRAPPERS, Checkpoint, is_tensor, open_checkpoint, plain_names

LISTED = 10
ENTRY_NOTES = ("entry", "other_entries", "statistics_from")  # what cards and the command's output say of the choice
_DEEPEST = 6
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_AVERAGES = frozenset(
    {"averaged", "average", "avg", "shadow", "swa", "polyak", "smooth", "smoothed", "running", "moving", "mean", "gs"}
)
_NO_AVERAGES = frozenset({"schema", "schemas"})

IsWanted = Callable[[Collection[str]], bool]  # the names of its tensors identify a network


@dataclass(frozen=True)
class FoundNetwork:
    """The tensors taken, the name of their entry ("" for a file that is one state dict), and the other entries."""

    tensors: dict[str, torch.Tensor]
    entry: str
    others: tuple[str, ...]
    completed_from: str = ""  # the entry that gave what an average of parameters alone lacks: the statistics

    def notes(self) -> dict[str, Any]:
        """For the card and the command's output; nothing where there was no choice."""
        return entry_notes(self.entry, self.others, self.completed_from)


def entry_notes(entry: str, others: Collection[str], completed_from: str = "") -> dict[str, Any]:
    """What a card says of the choice."""
    notes: dict[str, Any] = {"entry": printable(entry)} if entry else {}
    if others:
        notes["other_entries"] = [printable(name) for name in others][:LISTED]
    return {**notes, "statistics_from": printable(completed_from)} if completed_from else notes


@dataclass(frozen=True, eq=False)
class _Entry:
    path: str
    leaves: Mapping[str, Any]
    generator: bool
    averaged: bool
    named: bool = True  # False: a list of tensors without names


def is_averaged(name: str) -> bool:
    """Whether the name of an entry (dotted where it lies in another) says that it holds an average of weights."""
    words = {word.lower() for word in _WORDS.findall(name)} - _NO_AVERAGES
    return bool(words & _AVERAGES) or any(word.startswith("ema") or word.endswith("ema") for word in words)


def read_network(path: Path, is_generator: IsWanted, entry: str | None = None) -> FoundNetwork:
    """The generator in a file of torch.save or a .safetensors file; `entry`: the user's choice.

    UserError as for `open_checkpoint`, and naming the entries where none fits or several do.
    """
    with open_checkpoint(path) as checkpoint:
        entries = _entries(checkpoint, is_generator)
        if not any(candidate.named for candidate in entries):
            raise UserError(f"{path} holds no named tensors; give the checkpoint of the generator.")
        if entry is not None:
            chosen = _asked_for(path, entries, entry)
        else:
            chosen = _chosen(checkpoint, [candidate for candidate in entries if candidate.generator], entries)
        leaves, source = _completed(chosen, entries)
        others = tuple(
            dict.fromkeys(candidate.path for candidate in entries if candidate is not chosen and candidate.path)
        )
        return FoundNetwork(checkpoint.load(leaves), chosen.path, others, source)


def _entries(checkpoint: Checkpoint, is_generator: IsWanted) -> list[_Entry]:
    """Every group of named tensors that is a generator, or holds none in it."""
    entries: list[_Entry] = []
    seen: set[int] = set()

    def averaged(path: str, leaves: Mapping[str, Any]) -> bool:
        return is_averaged(path) or any(name.rpartition(".")[2] == COUNTER for name in leaves)

    def group(path: str, leaves: dict[str, Any], depth: int) -> bool:
        """Whether a generator lies in these tensors of dotted names."""
        plain = plain_names(leaves, checkpoint.path) if depth <= _DEEPEST else {}
        if plain and is_generator(plain.keys()):
            entries.append(_Entry(path, plain, True, averaged(path, leaves)))
            return True
        inner: dict[str, dict[str, Any]] = {}
        for name, leaf in leaves.items() if depth <= _DEEPEST else ():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = leaf
        within = [group(_below(path, first), part, depth + 1) for first, part in inner.items()]
        return any(within)

    def walk(value: Any, path: str, depth: int) -> None:
        if id(value) in seen or depth > _DEEPEST:
            return
        seen.add(id(value))
        if isinstance(value, list | tuple) and value and all(map(is_tensor, value)) and is_averaged(path):
            entries.append(_Entry(path, {}, False, True, named=False))
        if not isinstance(value, Mapping):
            return
        leaves = {str(name): leaf for name, leaf in value.items() if is_tensor(leaf)}
        if leaves and not group(path, leaves, 0) and (path or len(leaves) == len(value)):
            entries.append(_Entry(path, plain_names(leaves, checkpoint.path), False, averaged(path, leaves)))
        for name, inner in value.items():
            walk(inner, _below(path, str(name)), depth + 1)

    walk(checkpoint.content, "", 0)
    return entries


def _below(path: str, name: str) -> str:
    if name in WRAPPERS:
        return path
    return f"{path}.{name}" if path else name


def _asked_for(path: Path, entries: list[_Entry], entry: str) -> _Entry:
    """By its whole dotted name, or by the last or first part where that is one entry's alone."""
    named = [candidate for candidate in entries if candidate.named]
    first_part = f"{entry}."
    for fits in (
        lambda name: name == entry,
        lambda name: name.rpartition(".")[2] == entry,
        lambda name: name.startswith(first_part),
    ):
        matching = [candidate for candidate in named if fits(candidate.path)]
        if len(matching) == 1:
            return matching[0]
    raise UserError(f"--entry {printable(entry)}: {path} has {_listed(named)}; give one of these names.")


def _chosen(checkpoint: Checkpoint, generators: list[_Entry], entries: list[_Entry]) -> _Entry:
    path = checkpoint.path
    averaged = [entry for entry in generators if entry.averaged]
    unnamed = next((entry for entry in entries if not entry.named), None)
    if not averaged and unnamed is not None and generators:
        raise UserError(
            f"{path} has an average whose tensors have no names ({printable(unnamed.path)}), so it cannot be taken; "
            f"save the averaged generator's state dict, or take another with --entry {printable(generators[0].path)}."
        )
    choice = averaged or generators
    if not choice:
        bare = [entry for entry in entries if entry.named]
        if len(bare) == 1:
            return bare[0]  # what it lacks is said tensor by tensor
        raise UserError(
            f"{path} is no checkpoint of this kind: none of its entries ({_listed(bare)}) has a generator's tensors; "
            f"give another file, or --arch."
        )
    if len(choice) > 1 and not _equal(checkpoint, choice):
        kind = "averaged generators" if averaged else "generators, none of them named as an average"
        raise UserError(
            f"{path} holds several {kind} ({_listed(choice)}); choose one with --entry {printable(choice[0].path)}."
        )
    return choice[0]


def _equal(checkpoint: Checkpoint, entries: list[_Entry]) -> bool:
    first = checkpoint.load(entries[0].leaves)
    for other in entries[1:]:
        tensors = checkpoint.load(other.leaves)
        if tensors.keys() != first.keys() or any(not torch.equal(tensors[name], first[name]) for name in first):
            return False
    return True


def _completed(chosen: _Entry, entries: list[_Entry]) -> tuple[Mapping[str, Any], str]:
    """An average is often kept of parameters alone; the rest (statistics) is then the trained network's own."""
    if not chosen.averaged:
        return chosen.leaves, ""
    wider = [
        entry
        for entry in entries
        if entry.generator and not entry.averaged and chosen.leaves.keys() < entry.leaves.keys()
    ]
    if len(wider) != 1:
        return chosen.leaves, ""
    return {**wider[0].leaves, **chosen.leaves}, wider[0].path or "the file's own tensors"


def _listed(entries: list[_Entry]) -> str:
    names = [printable(entry.path or "tensors of its own") for entry in entries]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more or "no named tensors"

"""Training state on disk: folders of `tensors.safetensors` + `state.json`, committed whole.

A save either is there completely or not at all; the two newest are kept.  `state.json` carries one seal over step,
scalars and the digest of the tensors' file: a checkpoint in which any byte has changed, or whose folder names another
step, is passed over for the one before.  Randomness needs no entry: every step reseeds from (seed, purpose, step).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.atomic import commit_folder, remove_leftovers
from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.safe_files import printable, read_json_object
from runtime.safe_files.sealed_json import SEAL, open_seal, write_sealed_json
from runtime.tensor_files import read_tensors, save_tensors

KEEP = 2
_STATE, _TENSORS = "state.json", "tensors.safetensors"
_DAMAGE = (UserError, OSError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """`step` finished optimiser steps, the tensors by name, and JSON scalars."""

    step: int
    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Any]


class CheckpointFolder:
    """Numbered checkpoints under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._damaged: list[Path] = []
        self._begun = False  # the folder is there, as far as this process knows

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        """Commit the state after `step` steps, then delete all but the newest two, and the damaged ones.

        UserError where the folder was removed since the last time.
        """
        if self._begun and not self.folder.is_dir():
            raise UserError(f"{self.folder} was removed while this command worked in it; run it again.")
        final = self.folder / _name(step)
        if final.exists():
            _remove(final)

        def fill(temporary: Path) -> None:
            save_tensors(temporary / _TENSORS, tensors)
            state = {"step": step, "scalars": dict(scalars), "sha256": file_sha256(temporary / _TENSORS)}
            write_sealed_json(temporary / _STATE, state)

        commit_folder(final, fill)
        self._begun = True
        damaged, self._damaged = [path for path in self._damaged if path != final], []
        for old in [*damaged, *[path for path in self._saved() if path not in damaged][:-KEEP]]:
            _remove(old)

    def load_latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None.  Damaged ones are passed over, with one line on stderr."""
        self._begun = self.folder.is_dir()
        if self._begun:
            remove_leftovers(self.folder)
        newest, why = None, ""
        for path in reversed(self._saved()):
            try:
                newest = _read(path)
                break
            except _DAMAGE as error:
                self._damaged.append(path)
                why = why or f"checkpoint {path} is damaged ({printable(error).removesuffix('.')})"
        if why:
            where = (
                f"continuing from the one before, at step {newest.step}" if newest else "none is whole: starting anew"
            )
            print(f"{printable(why, 500)}; {where}", file=sys.stderr)
        return newest

    def remove(self) -> None:
        """Delete all checkpoints (the finished artefact has replaced them)."""
        self._begun = False
        shutil.rmtree(self.folder, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"), key=lambda path: (len(path.name), path.name))


def _name(step: int) -> str:
    return f"step_{step:09d}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Checkpoint:
    state = read_json_object(path / _STATE, "it is of no use")
    if SEAL not in state or not open_seal(state) or set(state) != {"step", "scalars", "sha256"}:
        raise ValueError(f"{_STATE} does not match its seal")
    if path.name != _name(state["step"]):
        raise ValueError(f"it is of step {state['step']}")
    if file_sha256(path / _TENSORS) != state["sha256"]:
        raise ValueError(f"{_TENSORS} does not match its digest")
    return Checkpoint(step=state["step"], tensors=read_tensors(path / _TENSORS), scalars=state["scalars"])

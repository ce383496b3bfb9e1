"""Training state on disk: folders of `tensors.safetensors` + `state.json`, committed whole.

A save either is there completely or not at all; the two newest are kept, and a damaged newest one falls back to the
one before.  Randomness needs no entry: every step reseeds from (seed, purpose, step).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from runtime.atomic import commit_folder, remove_leftovers, write_json
from runtime.digests import tensors_sha256

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """`step` finished optimiser steps, the tensors by name, and JSON scalars."""

    step: int
    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Any]


def module_tensors(prefix: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's state by name, each name headed by `prefix.`."""
    return {f"{prefix}.{name}": value.detach() for name, value in module.state_dict().items()}


def load_module(prefix: str, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `module_tensors`; names must match exactly."""
    head = f"{prefix}."
    module.load_state_dict({name[len(head) :]: value for name, value in tensors.items() if name.startswith(head)})


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's per-parameter tensors (moments, step counts) by name."""
    found: dict[str, torch.Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                found[f"{prefix}.{index}.{key}"] = torch.as_tensor(value).detach()
    return found


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`; learning rates are the schedule's business and stay as they are."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[key] = value.clone()
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            # Files hold tensors in plain order.  The fused kernels read moments in the parameter's memory order
            # (channels_last, say) without a look at the strides, so that the wrong weight would get the moment.
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[key] = torch.empty_like(parameter).copy_(value)


class CheckpointFolder:
    """Numbered checkpoints under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        """Commit the state after `step` steps, then delete all but the newest two."""
        final = self.folder / f"step_{step:09d}"
        if final.exists():
            shutil.rmtree(final)
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

        def fill(temporary: Path) -> None:
            save_file(plain, temporary / "tensors.safetensors")
            state = {"step": step, "sha256": tensors_sha256(plain), "scalars": dict(scalars)}
            write_json(temporary / "state.json", state)

        commit_folder(final, fill)
        for old in self._saved()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def load_latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None.  A damaged one is named on stderr and passed over."""
        if self.folder.is_dir():
            remove_leftovers(self.folder)
        for path in reversed(self._saved()):
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                print(f"checkpoint {path} is damaged ({error}); falling back to the one before", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Delete all checkpoints (the finished artefact has replaced them)."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"))


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text())
    try:
        tensors = load_file(path / "tensors.safetensors")
    except Exception as error:  # safetensors raises its own type for malformed headers
        raise ValueError(str(error)) from error
    if tensors_sha256(tensors) != state["sha256"]:
        raise ValueError("digest does not match")
    return Checkpoint(step=int(state["step"]), tensors=tensors, scalars=state["scalars"])

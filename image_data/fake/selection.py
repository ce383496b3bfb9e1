"""A selection: rows of a fake dataset with the labels to train on, saved as a small file with its recipe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load, save

from runtime.atomic import write_bytes
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files import parse_json, read_limited

_LARGEST_BYTES = 4 << 30
_KIND = "retort selection 1"


@dataclass(frozen=True, eq=False)
class Selection:
    """`rows` int64 n; `labels` n (or n x d) in the user's units, one a row; `recipe` says how they were selected.

    `fakes_digest` names the dataset that the rows count in.  `weights`: float32 n, how much each row counts in a
    training loss (mean 1), or None where all count alike.
    """

    rows: np.ndarray
    labels: np.ndarray
    recipe: dict[str, Any] = field(default_factory=dict)
    fakes_digest: str = ""
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.rows.dtype != np.int64 or self.rows.ndim != 1 or len(self.labels) != len(self.rows):
            raise ValueError("a selection is int64 rows and as many labels")
        if self.weights is not None and self.weights.shape != self.rows.shape:
            raise ValueError("a selection has one weight for each row")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Names the selection by its contents."""
        return _digest(self.rows, self.labels, self.recipe, self.fakes_digest, self.weights)

    def save(self, path: Path) -> None:
        """Write a safetensors file in one step."""
        metadata = {
            "kind": _KIND,
            "recipe": json.dumps(self.recipe, sort_keys=True),
            "fakes_digest": self.fakes_digest,
            "digest": self.digest,
        }
        tensors = {"rows": np.ascontiguousarray(self.rows), "labels": np.ascontiguousarray(self.labels)}
        if self.weights is not None:
            tensors["weights"] = np.ascontiguousarray(self.weights)
        write_bytes(Path(path), save(tensors, metadata=metadata))

    @staticmethod
    def load(path: Path) -> Selection:
        """Read a selection; UserError naming the file where it is missing, damaged or something else."""
        path = Path(path)
        try:
            data = read_limited(path, _LARGEST_BYTES, "give the path of a selection")
            with safetensors.safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
            if metadata.get("kind") != _KIND:
                raise UserError(f"{path} is no selection; give a file that `sample` or `filters.select` saved.")
            tensors = load(data)
            recipe = parse_json(metadata["recipe"], f"the recipe in {path}", "make it again")
            loaded = Selection(
                tensors["rows"], tensors["labels"], recipe, metadata["fakes_digest"], tensors.get("weights")
            )
            whole = loaded.digest == metadata["digest"]
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f"{path} is damaged or no selection; make it again.") from error
        if not whole:
            raise UserError(f"{path} does not match its own digest; make the selection again.")
        return loaded


def _digest(
    rows: np.ndarray, labels: np.ndarray, recipe: dict[str, Any], fakes_digest: str, weights: np.ndarray | None
) -> str:
    whole = hashlib.sha256(np.ascontiguousarray(rows).data)
    whole.update(np.ascontiguousarray(labels).data)
    if weights is not None:
        whole.update(np.ascontiguousarray(weights).data)
    return digest_of([whole.hexdigest(), str(labels.dtype), list(labels.shape), recipe, fakes_digest])

"""What the original programs computed for losses and networks: RETORT_PARITY_KD_DIR, by default ../shared/parity_kd."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "parity_kd"


@dataclass(frozen=True)
class Fixture:
    """One folder: its config and tensors by name; {} where it has no such file."""

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]


def parity_kd(kind: str, name: str) -> Fixture:
    """The fixture of a loss ("losses") or a network ("networks"); the test skips, with a reason, where it lacks."""
    folder = Path(os.environ.get("RETORT_PARITY_KD_DIR", DEFAULT)) / kind / name
    if not folder.is_dir():
        pytest.skip(f"no parity fixture at {folder}; set RETORT_PARITY_KD_DIR")
    files = [folder / f"{file}.safetensors" for file in ("inputs", "weights", "expected")]
    tensors = [load_file(file) if file.is_file() else {} for file in files]
    return Fixture(folder, json.loads((folder / "config.json").read_text()), *tensors)


def assert_like(found: torch.Tensor | float, expected: torch.Tensor, bound: float = 1e-4) -> None:
    """Equal but for `bound` times the largest expected entry: the fixtures are float32."""
    found, expected = torch.as_tensor(found).detach().double(), expected.double()
    assert found.shape == expected.shape
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    difference = float((found - expected).abs().max()) if expected.numel() else 0.0
    assert difference <= bound * max(largest, 1e-12), f"differs by {difference:.3g}, the largest entry is {largest:.3g}"

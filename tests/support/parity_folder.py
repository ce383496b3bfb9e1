"""Where the original programs' checkpoints and outputs lie: RETORT_PARITY_DIR, by default ../shared/parity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "parity"


def parity(name: str) -> Path:
    """The folder of one fixture; the test skips, with the reason, where the fixtures are absent."""
    folder = Path(os.environ.get("RETORT_PARITY_DIR", DEFAULT)) / name
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures at {folder.parent}; set RETORT_PARITY_DIR")
    return folder


def inputs_of(folder: Path) -> dict[str, torch.Tensor]:
    """z, y or c as the original program took them."""
    return load_file(folder / "inputs.safetensors")


def expected_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the original program made of them."""
    return load_file(folder / "expected.safetensors")

"""The registry of black boxes: teachers of whose insides nothing is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from interfaces import LabelSpace, Teacher, TeacherCard
from runtime.registry import Registry

BlackBoxLoader = Callable[[Path, TeacherCard, LabelSpace, torch.device], Teacher]

# Card's architecture -> loader(folder, card, label space, device); it checks its files against the card's digest.
BLACK_BOXES: Registry[BlackBoxLoader] = Registry("black box")

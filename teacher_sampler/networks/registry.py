"""The registry of teacher architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from interfaces import LabelSpace
from runtime.registry import Registry

TeacherBuilder = Callable[[Mapping[str, Any], LabelSpace], nn.Module]

TEACHERS: Registry[TeacherBuilder] = Registry("teacher architecture")

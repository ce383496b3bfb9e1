"""The light classifiers and regressors by name, one trunk each; `build_student` adds normalisation and head.

STUDENTS.build(choice, in_channels=, resolution_px=) gives an untrained trunk with `feature_dim`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifiers.networks.settings import TimmSettings, TrunkSettings
from runtime.lazy import lazy_exports
from runtime.registry import Registry

if TYPE_CHECKING:
    from classifiers.networks.student import StudentNetwork as StudentNetwork
    from classifiers.networks.student import build_student as build_student

STUDENTS: Registry[Any] = Registry("student network")
for _name in ("resnet8", "resnet20", "vgg8", "vgg8_quarter"):
    STUDENTS.declare(_name, "classifiers.networks.student", TrunkSettings)
for _name in ("mobilenetv3", "timm:NAME"):
    STUDENTS.declare(_name, "classifiers.networks.student", TimmSettings)

__getattr__, _exported = lazy_exports(
    __name__,
    {"StudentNetwork": "classifiers.networks.student", "build_student": "classifiers.networks.student"},
)
__all__ = ["STUDENTS", "StudentNetwork", "TimmSettings", "TrunkSettings", "build_student"]

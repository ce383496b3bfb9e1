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
STUDENTS.declare("mobilenetv3", "classifiers.networks.student", TimmSettings)
STUDENTS.declare("resnet20", "classifiers.networks.student", TrunkSettings)
STUDENTS.declare("resnet8", "classifiers.networks.student", TrunkSettings)
STUDENTS.declare("timm:NAME", "classifiers.networks.student", TimmSettings)
STUDENTS.declare("vgg8", "classifiers.networks.student", TrunkSettings)
STUDENTS.declare("vgg8_quarter", "classifiers.networks.student", TrunkSettings)

__getattr__, _exported = lazy_exports(
    __name__,
    {"StudentNetwork": "classifiers.networks.student", "build_student": "classifiers.networks.student"},
)
__all__ = ["STUDENTS", "StudentNetwork", "TimmSettings", "TrunkSettings", "build_student"]

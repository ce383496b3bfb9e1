"""The light classifiers and regressors by name, one trunk each; `build_student` adds normalisation and head.

STUDENTS.build(choice, in_channels=, resolution_px=) gives an untrained trunk with `feature_dim`.  The published
networks stand in `layers.trunks.TRUNKS`, a line each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifiers.networks.settings import OneWidthSettings, TimmSettings, TrunkSettings
from layers.trunks import TIMM_PREFIX, TRUNKS
from runtime.lazy import lazy_exports
from runtime.registry import Registry

if TYPE_CHECKING:
    from classifiers.networks.student import StudentNetwork as StudentNetwork
    from classifiers.networks.student import build_student as build_student

STUDENTS: Registry[Any] = Registry("student network")
STUDENTS.declare("mobilenetv3", "classifiers.networks.student", TimmSettings)
STUDENTS.declare(f"{TIMM_PREFIX}NAME", "classifiers.networks.student", TimmSettings)
for _name, _declared in TRUNKS.items():
    STUDENTS.declare(_name, "classifiers.networks.student", TrunkSettings if _declared.scales else OneWidthSettings)

__getattr__, _exported = lazy_exports(
    __name__,
    {"StudentNetwork": "classifiers.networks.student", "build_student": "classifiers.networks.student"},
)
__all__ = ["STUDENTS", "OneWidthSettings", "StudentNetwork", "TimmSettings", "TrunkSettings", "build_student"]

"""Methods on outputs, one file each: a subclass of `interfaces.method.Method`, and its line here.

Its settings are given here where they lie in a module without torch, so that --help shows them.
"""

from classifiers.distillation.settings import (
    CorrelationSettings,
    DecoupledSettings,
    HardLabelSettings,
    SoftTargetSettings,
)
from training.methods import METHODS

METHODS.declare("none", "classifiers.distillation.hard_labels", HardLabelSettings)
METHODS.declare("blkd", "classifiers.distillation.blkd", SoftTargetSettings)
METHODS.declare("dkd", "classifiers.distillation.dkd", DecoupledSettings)
METHODS.declare("dist", "classifiers.distillation.dist", CorrelationSettings)

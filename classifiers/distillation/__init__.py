"""Methods on outputs, one file each: a subclass of `interfaces.method.Method`, and its line here.

Its settings are given here where they lie in a module without torch, so that --help shows them.
"""

from classifiers.distillation.settings import (
    AugmentedSettings,
    CorrelationSettings,
    DecoupledSettings,
    HardLabelSettings,
    MultiLevelSettings,
    SelfSupervisedSettings,
    SoftTargetSettings,
)
from training.methods import METHODS

METHODS.declare("none", "classifiers.distillation.hard_labels", HardLabelSettings)
METHODS.declare("blkd", "classifiers.distillation.blkd", SoftTargetSettings)
METHODS.declare("dkd", "classifiers.distillation.dkd", DecoupledSettings)
METHODS.declare("dist", "classifiers.distillation.dist", CorrelationSettings)
METHODS.declare("mlkd", "classifiers.distillation.mlkd", MultiLevelSettings)
METHODS.declare("uda", "classifiers.distillation.uda", AugmentedSettings)
METHODS.declare("sskd", "classifiers.distillation.sskd", SelfSupervisedSettings)

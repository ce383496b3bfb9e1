"""Methods on features, one file each: for classifiers, generators and translators alike.

A method on pairs of maps is a subclass of `white_box.losses.pairs.PairedMaps`; any other one of
`interfaces.method.Method`.  Its line here names it; its settings are given here where they lie in a module without
torch, so that --help shows them.
"""

from training.methods import METHODS
from white_box.settings import KernelAlignmentSettings, PairSettings

METHODS.declare("feature_l2", "white_box.losses.feature_l2", PairSettings)
METHODS.declare("kernel_alignment", "white_box.losses.kernel_alignment", KernelAlignmentSettings)

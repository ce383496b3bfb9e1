"""Methods on features, one file each: for classifiers, generators and translators alike.

A method on pairs of maps is a subclass of `white_box.losses.pairs.PairedMaps`; any other one of
`interfaces.method.Method`.  Its line here names it; its settings are given here where they lie in a module without
torch, so that --help shows them.
"""

from training.methods import METHODS
from white_box.settings import KernelAlignmentSettings, PairSettings
from white_box.settings_maps import (
    AttentionSettings,
    BoundarySettings,
    CorrelationSettings,
    FactorSettings,
    FitNetSettings,
    FlowSettings,
    InformationSettings,
    NeuronSelectivitySettings,
    SimilaritySettings,
    SingularVectorSettings,
)
from white_box.settings_vectors import (
    ContrastSettings,
    ProbabilitySettings,
    RelationSettings,
    ReusedClassifierSettings,
    ReviewSettings,
)

METHODS.declare("ab", "white_box.losses.ab", BoundarySettings)
METHODS.declare("at", "white_box.losses.at", AttentionSettings)
METHODS.declare("cc", "white_box.losses.cc", CorrelationSettings)
METHODS.declare("crd", "white_box.losses.crd", ContrastSettings)
METHODS.declare("feature_l2", "white_box.losses.feature_l2", PairSettings)
METHODS.declare("fitnet", "white_box.losses.fitnet", FitNetSettings)
METHODS.declare("fsp", "white_box.losses.fsp", FlowSettings)
METHODS.declare("ft", "white_box.losses.ft", FactorSettings)
METHODS.declare("kdsvd", "white_box.losses.kdsvd", SingularVectorSettings)
METHODS.declare("kernel_alignment", "white_box.losses.kernel_alignment", KernelAlignmentSettings)
METHODS.declare("nst", "white_box.losses.nst", NeuronSelectivitySettings)
METHODS.declare("pkt", "white_box.losses.pkt", ProbabilitySettings)
METHODS.declare("reviewkd", "white_box.losses.reviewkd", ReviewSettings)
METHODS.declare("rkd", "white_box.losses.rkd", RelationSettings)
METHODS.declare("simkd", "white_box.losses.simkd", ReusedClassifierSettings)
METHODS.declare("sp", "white_box.losses.sp", SimilaritySettings)
METHODS.declare("vid", "white_box.losses.vid", InformationSettings)

"""The small protocols that the rooms share.  No logic lives here."""

from interfaces.distillation import DistillationLoss
from interfaces.engine import Engine
from interfaces.filtering import DensityRatio, FeatureExtractor, Predictor
from interfaces.labels import LabelSpace
from interfaces.tap import Tap
from interfaces.teacher import Teacher, TeacherCard

__all__ = [
    "DensityRatio",
    "DistillationLoss",
    "Engine",
    "FeatureExtractor",
    "LabelSpace",
    "Predictor",
    "Tap",
    "Teacher",
    "TeacherCard",
]

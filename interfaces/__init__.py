"""The small protocols that the rooms share.  No logic lives here.  `interfaces.method` needs torch: import it whole."""

from interfaces.engine import Engine
from interfaces.filtering import DensityRatio, Predictor
from interfaces.labels import LabelSpace
from interfaces.teacher import Teacher, TeacherCard

__all__ = [
    "DensityRatio",
    "Engine",
    "LabelSpace",
    "Predictor",
    "Teacher",
    "TeacherCard",
]

"""Light classifiers and regressors: networks, distillation losses, the trainer, the table of methods, rho search."""

from classifiers.distillation import DISTILLERS
from classifiers.networks import STUDENTS
from classifiers.predictor import ClassifierPredictor, load_classifier
from classifiers.settings import ClassifierSettings
from classifiers.trainer import train_classifier

__all__ = [
    "DISTILLERS",
    "STUDENTS",
    "ClassifierPredictor",
    "ClassifierSettings",
    "load_classifier",
    "train_classifier",
]

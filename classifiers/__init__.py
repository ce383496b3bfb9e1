"""Light classifiers and regressors: networks, distillation losses, the trainer, the table of methods, rho search."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from classifiers.networks import STUDENTS as STUDENTS
    from classifiers.predictor import ClassifierPredictor as ClassifierPredictor
    from classifiers.predictor import load_classifier as load_classifier
    from classifiers.settings import ClassifierSettings as ClassifierSettings
    from classifiers.trainer import check_training as check_training
    from classifiers.trainer import train_classifier as train_classifier

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "ClassifierPredictor": "classifiers.predictor",
        "ClassifierSettings": "classifiers.settings",
        "STUDENTS": "classifiers.networks",
        "check_training": "classifiers.trainer",
        "load_classifier": "classifiers.predictor",
        "train_classifier": "classifiers.trainer",
    },
)

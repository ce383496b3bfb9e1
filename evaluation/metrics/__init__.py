"""One file a metric: each is entered in `METRICS` as it is imported here."""

from evaluation.metrics import frechet_distance, kernel_distance, label_agreement, precision_recall
from evaluation.metrics.registry import METRICS, ImageSets, Metric, all_metrics

__all__ = [
    "METRICS",
    "ImageSets",
    "Metric",
    "all_metrics",
    "frechet_distance",
    "kernel_distance",
    "label_agreement",
    "precision_recall",
]

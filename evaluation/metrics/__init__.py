"""One file a metric, and one line of each in `registry`."""

from evaluation.metrics.registry import METRICS, ImageSets, Metric, all_metrics

__all__ = ["METRICS", "ImageSets", "Metric", "all_metrics"]

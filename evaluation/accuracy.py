"""How well a predictor does on labelled images, image by image and in the mean, with its standard error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from image_data.sources import ImageSource
from interfaces import LabelSpace, Predictor
from runtime.errors import UserError
from training.finite import require_finite


@torch.inference_mode()
def per_image_errors(
    predictor: Predictor,
    source: ImageSource,
    label_space: LabelSpace,
    *,
    labels: np.ndarray | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """float64 N: 1 for a wrong class and 0 for a right one, or the absolute error in the user's units.

    For vector labels the mean absolute error over the dimensions.  labels: held to these, not to the source's own.
    """
    if not len(source):
        raise UserError("there are no images to score; give a dataset with images.")
    labels = np.asarray(source.labels if labels is None else labels)
    errors = []
    for start in range(0, len(source), batch_size):
        rows = np.arange(start, min(start + batch_size, len(source)))
        outputs = predictor.predictions(torch.from_numpy(np.ascontiguousarray(source.images(rows)))).numpy()
        errors.append(errors_of_outputs(outputs, labels[rows], label_space))
    return np.concatenate(errors)


def errors_of_outputs(outputs: np.ndarray, labels: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """float64 N from predictor outputs (N x C logits, or N x d predictions) and labels in the user's units."""
    if len(outputs) != len(labels):
        raise ValueError(f"{len(outputs)} outputs cannot be scored against {len(labels)} labels")
    if not np.isfinite(outputs).all():
        raise UserError("a predictor's output is not a finite number; its training failed, train it again.")
    if label_space.kind == "classes":
        return (outputs.argmax(axis=1) != labels).astype(np.float64)
    wanted = np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)
    return np.abs(outputs.reshape(len(labels), -1) - wanted).mean(axis=1)


def score(
    predictor: Predictor, source: ImageSource, label_space: LabelSpace, *, batch_size: int = 256
) -> dict[str, Any]:
    """`measure` (error_rate or mae), `value`, `standard_error`, `images`, `unit`, `per_image` (float64 N, not JSON)."""
    errors = per_image_errors(predictor, source, label_space, batch_size=batch_size)
    return summary(errors, label_space)


def summary(errors: np.ndarray, label_space: LabelSpace) -> dict[str, Any]:
    """The score of per-image errors; the standard error is that of a mean over independent images."""
    require_finite(errors, "errors")
    return {
        "measure": "error_rate" if label_space.kind == "classes" else "mae",
        "value": float(errors.mean()),
        "standard_error": standard_error(errors),
        "images": len(errors),
        "unit": "" if label_space.kind == "classes" else str(label_space.to_json().get("unit", "")),
        "per_image": errors,
    }


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of N independent values; None for one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None

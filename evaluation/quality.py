"""How good a set of generated images is, with the whole protocol beside each number.

Scores of different protocols are not comparable, and `require_one_protocol` refuses to line them up.  Where a set is
too small for a Fréchet distance, the score is None with the reason, and the kernel distance with its error bar stands
in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from evaluation.inception import Inception, find_weights, load_inception
from evaluation.judge import Judge
from evaluation.metrics.accuracy import errors_of_outputs
from evaluation.metrics.frechet import Moments, frechet_distance, refusal
from evaluation.metrics.kernel import kernel_distance
from evaluation.metrics.precision_recall import precision_recall
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.seeds import numpy_generator

_READ_ROWS = 1024
_PAIRWISE_IMAGES = 5000  # kernel distance and neighbours compare all pairs; larger sets are thinned by a seeded draw


class FeatureNetwork(Protocol):
    """What gives the features: `Judge` or `Inception`."""

    metric_name: str
    feature_width: int

    @property
    def protocol(self) -> dict[str, Any]: ...

    def features(self, images: torch.Tensor | np.ndarray) -> torch.Tensor: ...


def choose_feature_network(
    judge: Judge, weights_file: Path | None = None, device: torch.device | None = None
) -> Judge | Inception:
    """Inception where its weights are given or cached, otherwise the judge.  The score is named after the choice."""
    path = find_weights(weights_file)
    return judge if path is None else load_inception(path, device)


def extract(network: FeatureNetwork, source: ImageSource, rows: np.ndarray | None = None) -> np.ndarray:
    """float32 N x d features of a source's images (of `rows`), read in pieces."""
    rows = np.arange(len(source)) if rows is None else np.asarray(rows)
    if not len(rows):
        raise UserError("there are no images to evaluate; give a dataset with images.")
    pieces = [rows[start : start + _READ_ROWS] for start in range(0, len(rows), _READ_ROWS)]
    return np.concatenate([network.features(source.images(piece)).numpy() for piece in pieces])


def image_quality(
    fake: ImageSource,
    real: ImageSource,
    label_space: LabelSpace,
    network: FeatureNetwork,
    *,
    judge: Judge | None = None,
    truncation: float | None = None,
    real_role: str = "held-out real images",
    diversity: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare generated with real images; everything in the result is JSON.

    `metric` FID, FD-inception or FD-judge; `score` float or None with `score_refused`; `images`; `kernel_distance`
    {mean, standard_error, images}; `per_class` {name: {score, refused, fake, real}} (classes only);
    `label_agreement` (with a judge; None for one class): share of fakes whose asked label the judge gives, or mean
    absolute error in the user's units; `precision`, `recall`; `protocol` and its digest.  Feature extraction runs in
    blocks of one fixed size, so no number depends on a batch size.
    """
    one_class = label_space.kind == "classes" and label_space.width == 1  # any judge would agree
    fake_features, real_features = extract(network, fake), extract(network, real)
    score, refused = _frechet(fake_features, real_features)
    protocol = {
        **network.protocol,
        "metric": network.metric_name,
        "real": real_role,
        "images_fake": len(fake),
        "images_real": len(real),
        "truncation": truncation,
        "pairwise_images": _PAIRWISE_IMAGES,
        "seed": seed,
    }
    a, b = _thin(fake_features, seed, "fake"), _thin(real_features, seed, "real")
    result: dict[str, Any] = {
        "metric": network.metric_name,
        "score": score,
        "score_refused": refused,
        "images": {"fake": len(fake), "real": len(real)},
        "kernel_distance": _kernel(a, b),
        "per_class": _per_class(fake, real, label_space, fake_features, real_features),
        "label_agreement": None if judge is None or one_class else label_agreement(judge, fake, label_space),
        "protocol": protocol,
        "protocol_digest": digest_of(protocol),
    }
    if diversity and min(len(a), len(b)) > 3:
        result["precision"], result["recall"] = precision_recall(a, b)
    return result


def label_agreement(judge: Judge, source: ImageSource, label_space: LabelSpace) -> dict[str, Any]:
    """The judge against the labels asked for: `accuracy` or `mae` (user's units), its standard error, the images.

    A source with `asked_labels(rows)` is held to those, so that relabelling cannot flatter the score.
    """
    errors = []
    asked = getattr(source, "asked_labels", None)
    for start in range(0, len(source), _READ_ROWS):
        rows = np.arange(start, min(start + _READ_ROWS, len(source)))
        labels = np.asarray(source.labels)[rows] if asked is None else asked(rows)
        errors.append(errors_of_outputs(judge(source.images(rows)).numpy(), labels, label_space))
    values = np.concatenate(errors)
    classes = label_space.kind == "classes"
    return {
        "measure": "accuracy" if classes else "mae",
        "value": float(1.0 - values.mean() if classes else values.mean()),
        "standard_error": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
        "images": len(values),
        "unit": "" if classes else str(label_space.to_json().get("unit", "")),
        "judge_digest": judge.card["digest"],
    }


def require_one_protocol(results: Mapping[str, dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """UserError where quality results differ in what decides a score (network, preprocessing, counts, truncation).

    Truncation may differ between a teacher and its student only knowingly, so it counts as a difference.
    """
    named = list(results.items()) if isinstance(results, Mapping) else list(enumerate(results))
    for name, result in named[1:]:
        first_name, first = named[0]
        keys = sorted(set(first["protocol"]) | set(result["protocol"]))
        differing = [key for key in keys if first["protocol"].get(key) != result["protocol"].get(key)]
        if differing:
            raise UserError(
                f"the scores of {first_name} and {name} cannot be compared: they differ in {', '.join(differing)}; "
                "evaluate both in the same way."
            )


def _frechet(fake: np.ndarray, real: np.ndarray) -> tuple[float | None, str | None]:
    reason = refusal(len(fake), len(real), fake.shape[1])
    if reason:
        return None, reason
    return frechet_distance(Moments.of(fake), Moments.of(real)), None


def _kernel(fake: np.ndarray, real: np.ndarray) -> dict[str, Any] | None:
    if min(len(fake), len(real)) < 3:
        return None
    mean, standard_error = kernel_distance(fake, real)
    return {"mean": mean, "standard_error": standard_error, "images": {"fake": len(fake), "real": len(real)}}


def _per_class(
    fake: ImageSource, real: ImageSource, label_space: LabelSpace, fake_features: np.ndarray, real_features: np.ndarray
) -> dict[str, Any] | None:
    if label_space.kind != "classes":
        return None
    names = label_space.to_json()["names"]
    found: dict[str, Any] = {}
    for index, name in enumerate(names):
        a = fake_features[np.asarray(fake.labels) == index]
        b = real_features[np.asarray(real.labels) == index]
        score, refused = _frechet(a, b)
        found[name] = {"score": score, "refused": refused, "fake": len(a), "real": len(b)}
    return found


def _thin(features: np.ndarray, seed: int, role: str) -> np.ndarray:
    if len(features) <= _PAIRWISE_IMAGES:
        return features
    rows = numpy_generator(seed, "pairwise", role).permutation(len(features))[:_PAIRWISE_IMAGES]
    return features[np.sort(rows)]

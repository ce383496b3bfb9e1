"""Train a predictor on real images, without distillation: the network that filters fakes and teaches students."""

from __future__ import annotations

from functools import partial
from typing import Any

from classifiers.networks import STUDENTS
from commands.support.builders import load_data
from commands.support.classifier_flags import ClassifierFlags, classifier_settings, start_of, uploaded_bytes
from commands.support.lineage import checked, parts_of_training, record_seen
from commands.support.options import Chosen, DataOptions, entry_option, option
from commands.support.workspace import artefact
from image_data.seen_names import CLASSIFIER
from runtime.bounds import ShareBelowOne
from training.methods import METHODS


class Options(ClassifierFlags, DataOptions):
    """Flags of train-classifier."""

    aliases = {"width": "network.width"}

    network: Chosen = entry_option(STUDENTS, "vgg8_quarter", "The predictor's network.")
    label_smoothing: ShareBelowOne = option(0.0, "Share of a label's mass that all classes get.")


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done."""
    from classifiers import check_training, train_classifier
    from classifiers.needs import classifier_needs
    from image_data.label_meeting import LabelHolder, check_several_classes
    from runtime.ranks import join_ranks

    ranks, device = join_ranks(options.device, options.batch_size)
    method = METHODS.choose("none", {"label_smoothing": options.label_smoothing})
    settings = classifier_settings(options, options.network, method)
    data = load_data(options)
    check_several_classes(LabelHolder("data", f"--data {options.data}", data.label_space), "train-classifier")
    others = parts_of_training(options, None, None)
    checked(options, data, others, test=False)
    check_training(data.train, data.val, data.label_space, settings, data.allowed_augmentations, device=device)
    parents = {"data": data.digest, **start_of(options)}
    pixels = data.train.pixels
    held = pixels.nbytes + uploaded_bytes(options, data.train)
    needs = partial(classifier_needs, settings, pixels.shape[1:], data.label_space, held, device)
    with artefact("train-classifier", "predictor", options, parents, ranks=ranks, needs=needs) as output:
        known = output.finished or not ranks.main
        seen = {} if known else record_seen(output.folder, others, data.seen_by(CLASSIFIER))
        result = train_classifier(
            data.train, data.val, data.label_space, settings, output.folder, device, data.allowed_augmentations,
            trained_on=seen, ranks=ranks,
        )  # fmt: skip
    return {"predictor": str(output.folder), **result}

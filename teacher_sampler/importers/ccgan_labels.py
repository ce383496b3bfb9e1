"""CcGAN's networks about the label: y2h (label -> h), x2y (image -> h -> label), and whether two files are a pair.

y2h was trained as a right inverse of the last part of x2y, h2y(y2h(y)) = y.  So the file of x2y tells what that of y2h
cannot: whether y2h ends in a ReLU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
from runtime.safe_files.state_dicts import check_tensors, read_tensors
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.networks.ccgan import NORM_GROUPS, LabelEmbeddingNetwork
from teacher_sampler.networks.image_label import ImageLabelNetwork

ENTRIES = ("net_state_dict", "state_dict")
ROUND_TRIP_LABELS = 101  # evenly from 0 to 1
ROUND_TRIP_LIMIT = 0.1  # of the range: a trained pair stays far below, two strangers far above
STAGES = {0: (3, 4, 5, 6), 1: (4, 5, 6, 7), 2: (4, 6, 7, 8)}  # pools -> the stages' places in x2y's `main`
RESNET18, RESNET34 = (2, 2, 2, 2), (3, 4, 6, 3)

Tensors = Mapping[str, torch.Tensor]


def label_embedding(
    embedding_file: Path, request: ImportRequest, span: float
) -> tuple[LabelEmbeddingNetwork, dict[str, float]]:
    """y2h with or without its last ReLU, and notes for the card; `span` is the label's range in the user's units.

    Without `request.label_network`, the ReLU is there unless `request.final_relu` says no.  With it, the form is taken
    that is the better inverse where `final_relu` leaves it open, and the notes have its mean error in the user's units.
    UserError where a file is damaged, something else, or not of one training run with the other.
    """
    embedding = read_label_embedding(embedding_file, request.final_relu is not False)
    if request.label_network is None:
        return embedding, {}
    network = read_label_network(request.label_network)
    pair = f"{embedding_file} is not the right inverse of {request.label_network}"
    if network.dimension != embedding.dimension:
        raise UserError(
            f"{pair}: one has {embedding.dimension} features and the other {network.dimension}; "
            f"give the two files of one training run."
        )
    errors = {}
    for final_relu in (True, False):
        embedding.final_relu = final_relu
        errors[final_relu] = round_trip_error(embedding, network)
    better = min(errors, key=lambda final_relu: errors[final_relu])  # the first where they are equal: the usual form
    if not errors[better] <= ROUND_TRIP_LIMIT:
        raise UserError(
            f"{pair}: labels come back {errors[better]:.2g} of the range away, where {ROUND_TRIP_LIMIT:g} is the most; "
            f"give the two files of one training run."
        )
    chosen = better if request.final_relu is None else request.final_relu
    if not errors[chosen] <= ROUND_TRIP_LIMIT:
        raise UserError(
            f"--{'' if chosen else 'no-'}final-relu: with it {pair} (labels come back {errors[chosen]:.2g} of the "
            f"range away, and {errors[better]:.2g} in the other form); leave it out."
        )
    embedding.final_relu = chosen
    return embedding, {"label_round_trip_error": errors[chosen] * span}


def round_trip_error(embedding: LabelEmbeddingNetwork, network: ImageLabelNetwork) -> float:
    """The mean of |h2y(y2h(y)) - y| over labels y spread evenly over [0, 1]."""
    labels = torch.linspace(0.0, 1.0, ROUND_TRIP_LABELS).unsqueeze(1)
    with torch.inference_mode():
        return float((network.to_label(embedding(labels)) - labels).abs().mean())


def read_label_embedding(path: Path, final_relu: bool) -> LabelEmbeddingNetwork:
    """y2h of five or seven linear layers from its file.  UserError where the file is damaged or something else."""
    tensors = read_tensors(path, ENTRIES)
    if any(name.startswith(("x2h_res.", "h2y.")) for name in tensors):
        raise UserError(f"{path} is the network from images to labels (x2y); give the file of y2h.")
    if not any(re.fullmatch("main[.][0-9]+[.](weight|bias)", name) for name in tensors):
        raise UserError(f"{path} holds no label embedding network (its layers are main.0, ...); give the file of y2h.")
    layers = 7 if any(name.startswith(("main.15.", "main.18.")) for name in tensors) else 5
    dimension = vote(tensors, [(f"main.{3 * index}.bias", 0) for index in range(layers)], NORM_GROUPS)
    if dimension % NORM_GROUPS:
        raise UserError(f"{path} embeds a label as {dimension} numbers, which {NORM_GROUPS} groups cannot share.")
    with torch.device("meta"):
        network = LabelEmbeddingNetwork(dimension, layers, final_relu)
    check_tensors(tensors, {name: value.shape for name, value in network.state_dict().items()}, path)
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False)


def read_label_network(path: Path) -> ImageLabelNetwork:
    """x2y in the layout of ResNet-18 or ResNet-34 from its file.  UserError where it is damaged or something else."""
    tensors = read_tensors(path, ENTRIES)
    if not any(name.startswith(("x2h_res.", "h2y.")) for name in tensors):
        raise UserError(f"{path} holds no network from images to labels (its last layer is h2y); give the file of x2y.")
    if any(".conv3." in name for name in tensors):
        # In the original programs this layout ends in 2048 channels and its next layer takes 512: it never ran.
        raise UserError(f"{path} has the layout of ResNet-50, and x2y has 18 or 34; leave --label-network out.")
    with torch.device("meta"):
        network = ImageLabelNetwork(**_network_arguments(tensors))
    original_names = {name: _their_name(name) for name in network.state_dict() if not _counts_batches(name)}
    expected = {
        original_names[name]: value.shape for name, value in network.state_dict().items() if name in original_names
    }
    check_tensors(tensors, expected, path, lambda name: _counts_batches(name) and f"{_owner(name)}.weight" in expected)
    state = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if _counts_batches(name)}
    network.load_state_dict(
        state | {target: tensors[name].float() for target, name in original_names.items()}, assign=True
    )
    return network.eval().requires_grad_(False)


def vote(tensors: Tensors, tellers: list[tuple[str, int]], otherwise: int = 1) -> int:
    """The size that most of the (name, axis) in `tensors` have; `otherwise` where all are missing, as will be said."""
    sizes = Counter(
        tensors[name].shape[axis] for name, axis in tellers if name in tensors and tensors[name].ndim > axis
    )
    sizes.pop(0, None)
    return int(sizes.most_common(1)[0][0]) if sizes else otherwise


def _network_arguments(tensors: Tensors) -> dict[str, Any]:
    """ImageLabelNetwork's arguments, each by the majority of the tensors that tell it, so that one misshapen tensor is
    reported as such.
    """
    residual = {match[1] for name in tensors if (match := re.match(r"main[.]([3-8][.][0-9]+)[.]", name))}
    places = [int(block[0]) for block in residual]
    pools = max(STAGES, key=lambda count: sum(place in STAGES[count] for place in places))
    blocks = min(RESNET18, RESNET34, key=lambda layout: abs(len(residual) - sum(layout)))

    def norm(name: str) -> list[tuple[str, int]]:
        return [(f"{name}.{kind}", 0) for kind in ("weight", "bias", "running_mean", "running_var")]

    first = f"main.{STAGES[pools][0]}.0"
    stem = [("main.0.weight", 0), (f"{first}.conv1.weight", 1), (f"{first}.shortcut.0.weight", 1), *norm("main.1")]
    widths = [vote(tensors, stem)]
    for place, count in zip(STAGES[pools], blocks, strict=True):
        tellers = []
        for block in (f"main.{place}.{index}" for index in range(count)):
            tellers += [(f"{block}.conv1.weight", 0), (f"{block}.conv2.weight", 0), (f"{block}.conv2.weight", 1)]
            tellers += norm(f"{block}.bn1") + norm(f"{block}.bn2")
        widths.append(vote(tensors, tellers))
    hidden = [("x2h_res.0.weight", 0), ("x2h_res.0.bias", 0), ("x2h_res.3.weight", 1), *norm("x2h_res.1")]
    features = [("x2h_res.3.weight", 0), ("x2h_res.3.bias", 0), ("h2y.0.weight", 1), *norm("x2h_res.4")]
    return {
        "channels": vote(tensors, [("main.0.weight", 1)]),
        "widths": widths,
        "blocks": blocks,
        "hidden": vote(tensors, hidden),
        "dimension": vote(tensors, features),
        "pools": pools,
    }


def _their_name(name: str) -> str:
    return name.replace("x2h.", "x2h_res.").replace(".norm", ".bn")


def _counts_batches(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _owner(name: str) -> str:
    return name.rpartition(".")[0]

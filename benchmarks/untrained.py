"""Networks and filters that were never trained: they cost what trained ones cost.

`CASES` are whole pipelines of the real networks (BigGAN, the filter's extractor and density ratio, a predictor); an
untrained ratio is scaled so that about one candidate in three is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from classifiers.networks import build_student
from classifiers.predictor import ClassifierPredictor
from filters.acceptance import Acceptance
from filters.density_ratio import DensityRatio, RatioNetwork
from filters.features import Features, build_feature_network, default_feature_dim
from filters.settings import FilterSettings
from filters.teacher_error import classification_error
from image_data.labels import ClassLabels
from interfaces import LabelSpace, TeacherCard
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.seeds import numbered_keys
from teacher_sampler.networks import TEACHERS
from teacher_sampler.sampling.plan import LabelPlan, SamplingParts
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings
from training.generator_folder import NetworkGenerator, save_generator

_CALIBRATION = 128  # candidates on which an untrained ratio is given its spread
_SPREAD = 0.65  # standard deviation of the ratio, whose mean is 1: about one in three is accepted


def class_space(classes: int) -> ClassLabels:
    """Classes named by their index."""
    return ClassLabels(tuple(str(index) for index in range(classes)))


def biggan(
    space: ClassLabels,
    resolution_px: int,
    channels: int,
    width: int,
    device: torch.device,
    *,
    latent_dim: int = 64,
    label_dim: int = 32,
) -> NetworkGenerator:
    """An untrained BigGAN, a little disturbed, so that its images differ."""
    torch.manual_seed(0)
    arguments = {
        "resolution_px": resolution_px,
        "channels": channels,
        "width": width,
        "latent_dim": latent_dim,
        "label_dim": label_dim,
        "spectral_normed": False,  # as trained teachers are, once their folder is written
    }
    network = TEACHERS.get("biggan")(space, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    latent = {"distribution": "normal", "dimension": latent_dim}
    card = _card("biggan", space, resolution_px, channels, arguments=arguments, latent=latent)
    return NetworkGenerator(card, network, space, device)


def save(teacher: NetworkGenerator, folder: Path) -> Path:
    """As a teacher's folder."""
    save_generator(folder, teacher.card, teacher.network)
    return folder


def _card(architecture: str, space: LabelSpace, resolution_px: int, channels: int, **known: dict) -> TeacherCard:
    return TeacherCard(
        architecture=architecture,
        arguments=known.get("arguments", {}),
        resolution_px=resolution_px,
        channels=channels,
        label_space=space.to_json(),
        latent=known.get("latent", {}),
        truncation={},
        source_digest="",
        licence="none",
        allowed_augmentations=[],
    )


class NoiseTeacher:
    """Images that cost nothing to make."""

    def __init__(self, space: LabelSpace, resolution_px: int, channels: int) -> None:
        self.label_space = space
        self.card = _card("noise", space, resolution_px, channels)

    def latents(self, keys: np.ndarray, seed: int) -> None:
        """A black box has none."""
        return None

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """Uniform noise."""
        size = self.card.resolution_px
        return torch.rand(len(labels), self.card.channels, size, size) * 2.0 - 1.0

    def candidates(self, labels: np.ndarray) -> None:
        """Unlimited."""
        return None


def noise_dataset(folder: Path, count: int, channels: int, resolution_px: int) -> Path:
    """A finished dataset of `count` images of noise in ten classes."""
    space = class_space(10)
    parts = SamplingParts(
        NoiseTeacher(space, resolution_px, channels), None, None, Acceptance.none(), classification_error
    )
    sample(lambda: parts, LabelPlan.classes(space, count // 10), SamplerSettings(), folder, LocalEngine(1))
    return folder


@dataclass(frozen=True)
class Case:
    """An untrained pipeline.  Calling it builds the sampler's parts; picklable.

    `predictor`: an entry of STUDENTS, or "" for none.  `per_label`, `pilot_candidates`: a run of some seconds.
    """

    name: str
    resolution_px: int
    channels: int
    width: int
    predictor: str
    latent_dim: int
    label_dim: int
    per_label: int
    pilot_candidates: int
    classes: int = 10
    device: str = "cpu"

    @property
    def space(self) -> ClassLabels:
        """Its classes."""
        return class_space(self.classes)

    def __call__(self) -> SamplingParts:
        shape = (self.channels, self.resolution_px)
        sizes = {"latent_dim": self.latent_dim, "label_dim": self.label_dim}
        device = torch.device(self.device)
        teacher = biggan(self.space, self.resolution_px, self.channels, self.width, device, **sizes)
        predictor = None
        if self.predictor:
            torch.manual_seed(1)
            network = build_student(self.predictor, *shape, self.space)
            predictor = ClassifierPredictor({}, network, self.space, device)
        return SamplingParts(teacher, density_ratio(teacher), predictor, Acceptance(), classification_error)

    def settings(self) -> SamplerSettings:
        """The default ones, with a pilot that goes with the size of the run."""
        return SamplerSettings(pilot_candidates=self.pilot_candidates)

    def plan(self, count: int | None = None) -> LabelPlan:
        """`count` fakes in all, equally many of each class."""
        return LabelPlan.classes(self.space, self.per_label if count is None else max(1, count // self.classes))

    def describe(self) -> str:
        """The networks, for people."""
        size = f"{self.channels} x {self.resolution_px} x {self.resolution_px}"
        return f"{size}, untrained: BigGAN {self.width}, ratio mlp3, {self.predictor or 'no predictor'}"


CASES = (
    Case("demo", 16, 1, 16, "vgg8_quarter", latent_dim=64, label_dim=32, per_label=1000, pilot_candidates=1000),
    Case("cifar10", 32, 3, 32, "resnet20", latent_dim=128, label_dim=128, per_label=40, pilot_candidates=64),
)
TINY = replace(CASES[0], name="tiny", width=4, predictor="")


@torch.no_grad()
def density_ratio(teacher: NetworkGenerator) -> DensityRatio:
    """The default filter's networks, untrained; the last layer gets a spread, or the ratio would be the constant 1."""
    card, space, settings = teacher.card, teacher.label_space, FilterSettings()
    feature_dim = default_feature_dim(card.channels, card.resolution_px)
    extractor = {
        "channels": card.channels,
        "resolution_px": card.resolution_px,
        "feature_dim": feature_dim,
        "width": settings.extractor_width,
        "outputs": space.width,
        "label_kind": space.kind,
    }
    features = Features(build_feature_network(extractor), teacher.device, {})
    network = RatioNetwork(
        feature_dim + 1, space.kind, space.width, settings.mlp, settings.width, settings.resolved_dropout
    )
    ratio = DensityRatio(features, network, space, {"settings": {"agreement": True}})
    labels = np.arange(_CALIBRATION) % space.width
    keys = numbered_keys(labels)
    images = quantise(teacher.generate(teacher.latents(keys, 0), labels, keys, 0))
    encoded = space.encode(labels).to(teacher.device)
    network.set_standardisation(features.with_label(images, encoded, True))
    seen: list[torch.Tensor] = []
    watch = network.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ratio(images, labels)
    watch.remove()
    weight = torch.randn_like(network.output.weight)
    values = seen[0] @ weight[0]
    network.output.weight.copy_(weight * _SPREAD / values.std())
    network.output.bias.fill_(1.0 - _SPREAD * float(values.mean() / values.std()))
    return ratio

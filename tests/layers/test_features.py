"""Features by name: what fires, what is refused, and that reading leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from classifiers.networks import STUDENTS, build_student
from image_data.labels import ClassLabels
from layers.features import FeatureReader, Insides, feature_paths
from layers.trunks import TRUNKS, build_trunk
from layers.trunks.timm_model import timm_feature_paths
from runtime.errors import UserError

STAGES = {"resnet8": 3, "resnet18": 4, "resnet50": 4, "wrn_16_1": 3, "vgg8": 4, "vgg8_quarter": 4, "mobilenetv2": 4}
STAGES |= {"shufflev1": 3, "shufflev2": 3, "densenet121": 4, "efficientnetb0": 5, "mobilenetv3": 4}
STAGES |= {"resnet20_64": 3, "vgg8_flat": 4, "mobilenetv2_full": 4, "mobilenetv2_imagenet": 5, "shufflev2_imagenet": 3}
STAGES |= {"efficientnetb0_imagenet": 5}
RAW = ("wrn", "mobile", "dense", "efficient")  # their stages end without an activation


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_classifier_gives_its_features_by_name(name: str) -> None:
    side = 32 if name.endswith(("_flat", "_imagenet")) else 16
    network = build_student(name, 1, side, ClassLabels(("a", "b", "c")))
    names = list(feature_paths(network))
    stages = [f"stage{index + 1}" for index in range(STAGES[name])]
    before = [[f"{stage}_preact"] if name in TRUNKS else [] for stage in stages]
    assert names == ["stem", *(one for stage, more in zip(stages, before, strict=True) for one in (*more, stage)),
                     "pooled", "logits"]  # fmt: skip
    images = torch.randint(0, 256, (4, 1, side, side), dtype=torch.uint8)
    views = FeatureReader(network, names)(images)
    shapes = Insides(network, (images[:2],), "student").shapes
    for feature in names[:-2]:
        assert views.features[feature].shape == (4, *shapes[feature])
        assert len(shapes[feature]) == 3
    assert torch.equal(views.features["logits"], views.output)
    assert views.features["pooled"].shape == (4, network.backbone.feature_dim)
    assert all(feature.requires_grad for feature in views.features.values())
    if name.startswith("resnet"):
        assert torch.equal(views.features[stages[-1]].mean(dim=(2, 3)), views.features["pooled"])
    if not name.startswith((*RAW, "shufflev2")):
        for stage in stages:
            assert torch.equal(views.features[f"{stage}_preact"].relu(), views.features[stage])


def test_reading_before_the_activation_changes_nothing() -> None:
    images = torch.randn(4, 1, 16, 16)
    for name in ("resnet8", "wrn_10_1", "vgg8_quarter", "shufflev2"):
        network = build_trunk(name, 1, 16).eval()
        plain = network(images)
        views = FeatureReader(network, ["stage1_preact", "stage2_preact"])(images)
        assert torch.equal(views.output, plain)
        by_size = Insides(network, (images,), "student").maps_by_size()
        assert [one for one in by_size.values() if one.endswith("_preact")] == []


def test_the_reader_runs_over_every_family() -> None:
    """One network of each family; those of a family differ in numbers alone."""
    assert {TRUNKS[name].family for name in STAGES if name in TRUNKS} == {one.family for one in TRUNKS.values()}
    assert set(STUDENTS) == {*TRUNKS, "mobilenetv3"}


def test_modules_are_read_by_path_too_and_reading_leaves_no_trace() -> None:
    network = build_trunk("resnet8", 1, 16, 0.25)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = Insides(network, (torch.zeros(2, 1, 16, 16),), "student").shapes
    assert shapes["layer2.0.conv1"] == shapes["layer2.0"] == (8, 8, 8)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    images = torch.randn(3, 1, 16, 16)
    views = FeatureReader(network, ["layer2.0"])(images)
    stem = torch.relu(network.bn1(network.conv1(images)))
    assert torch.equal(views.features["layer2.0"], network.layer2[0](network.layer1(stem)))
    assert not any(module._forward_hooks for module in network.modules())


class WithSpare(nn.Module):
    """A convolution that the forward pass does not use, one whose output is overwritten, and one that gives two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare, self.last = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu_(self.first(x)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "the student has no feature 'nowhere' to read; it has first, spare, last"),
        ("", "no feature ''"),
        ("spare", "student's 'spare' did not fire"),
        ("first", "student's 'first' is overwritten by the module behind it"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureReader(WithSpare(), [name], "student")(torch.ones(1, 1, 8, 8))


def test_shapes_that_do_not_fit_are_named() -> None:
    insides = Insides(WithSpare(), (torch.ones(2, 1, 8, 8),), "teacher")
    assert insides.shape("last") == (1, 6, 6)
    with pytest.raises(UserError, match="the teacher's 'spare' does not fire"):
        insides.shape("spare")
    with pytest.raises(UserError, match="gives no N x d matrix"):
        insides.shape("last", dims=1)


def test_a_network_without_blocks_offers_its_maps() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 1, 1))
    assert Insides(plain, (torch.zeros(2, 1, 8, 8),), "student").maps_by_size() == {(8, 8): "1", (4, 4): "2"}


def test_timm_models_that_say_nothing_have_no_names() -> None:
    assert timm_feature_paths(nn.Conv2d(1, 1, 1)) == {}

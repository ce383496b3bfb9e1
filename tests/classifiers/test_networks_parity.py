"""The published networks against their originals: parameters, multiply-adds, shapes, outputs and features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from classifiers import load_classifier
from classifiers.foreign.known_networks import known_network, load_weights
from classifiers.foreign.networks import ForeignNetwork
from classifiers.networks import build_student
from classifiers.predictor import FOLDER
from image_data.labels import ClassLabels
from layers.features import FeatureReader, feature_paths
from layers.trunks import TRUNKS, build_trunk
from runtime.errors import UserError
from tests.commands.test_predictor_import import CPU, random_images, typed
from tests.support.filled_networks import filled
from tests.support.parity_kd import Fixture, assert_like, parity_kd

SMALL = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet8x4", "wrn_10_1", "wrn_16_1", "wrn_16_2", "wrn_40_1"]
SMALL += ["vgg8", "vgg8_narrow", "vgg11", "MobileNetV2", "ShuffleV1", "ShuffleV2", "v2_efficientnetb0"]
LARGE = ["resnet44", "resnet56", "resnet110", "resnet32x4", "wrn_40_2", "vgg13", "vgg16", "vgg19", "ResNet50"]
LARGE += ["v2_ResNet18", "v2_ResNet34", "v2_densenet121"]
OTHERS = {  # of 2021 for CIFAR-10 and RC-49, of 2023 for Steering Angle and UTKFace
    "v1_EfficientNetB0": "efficientnetb0",
    "v1_ShuffleNetV2": "shufflev2_3x3",
    "regression_v1_MobileNetV2": "mobilenetv2_imagenet",
    "regression_v1_ShuffleNetV2": "shufflev2_imagenet",
    "regression_v1_EfficientNetB0": "efficientnetb0_imagenet",
    "regression_v2_resnet20": "resnet20_64",
    "regression_v2_wrn_16_1": "wrn_16_1_64",
    "regression_v2_vgg8": "vgg8_flat",
    "regression_v2_ShuffleV1": "shufflev1_64",
    "regression_v2_ShuffleV2": "shufflev2_64",
}
LARGE_OTHERS = {
    "v1_ResNet18": "resnet18",
    "v1_VGG11": "vgg11_flat",
    "v1_VGG13": "vgg13_flat",
    "v1_VGG16": "vgg16_flat",
    "v1_ResNet50": "resnet50",
    "v1_DenseNet121": "densenet121",
    "v1_MobileNetV2": "mobilenetv2_full",
    "regression_v1_VGG16": "vgg16_flat",
    "regression_v2_resnet56": "resnet56_64",
    "regression_v2_resnet8x4": "resnet8x4_64",
    "regression_v2_wrn_40_1": "wrn_40_1_64",
    "regression_v2_vgg11": "vgg11_flat",
    "regression_v2_vgg13": "vgg13_flat",
    "regression_v2_vgg19": "vgg19_flat",
    "regression_v2_ResNet18": "resnet18_64",
    "regression_v2_DenseNet121": "densenet121_64",
    "regression_v2_EfficientNetB0": "efficientnetb0",
    "regression_v2_MobileNetV2": "mobilenetv2_imagenet",
}
ALL_OTHERS = OTHERS | LARGE_OTHERS
NOT_PUBLISHED = {"vgg8_quarter"}
FIXTURES = 56


def _own(name: str) -> str:
    return ALL_OTHERS.get(name, name.removeprefix("v2_").lower())


def _sizes(small: Iterable[str], large: Iterable[str]) -> list[Any]:
    return [*small, *(pytest.param(name, marks=pytest.mark.slow) for name in large)]


def _network(name: str) -> tuple[Fixture, nn.Module, torch.Tensor]:
    """Its fixture, the network with the fixture's weights, and images; parameters and multiply-adds are compared."""
    fixture = parity_kd("networks", name)
    described = fixture.config
    side = described["input_size"]
    network, core = known_network(
        _own(name), filled(described), Path(name), width=None, channels=3, resolution_px=side, continuous=side == 64
    )
    assert network.width == 1.0
    assert sum(value.numel() for value in core.parameters()) == described["parameters"]
    images = load_file(fixture.folder.parent / "inputs.safetensors")[f"x{side}"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        core(images[:1])
    assert counter.get_total_flops() // 2 == described["macs"]
    return fixture, core, images


@pytest.mark.parametrize("name", _sizes(OTHERS, LARGE_OTHERS))
def test_parity_kd_network_of_another_form(name: str) -> None:
    fixture, core, images = _network(name)
    with torch.no_grad():
        found = core(images)
    assert_like(found.relu() if name.startswith("regression") else found, fixture.expected["output"])


@pytest.mark.parametrize("name", _sizes(SMALL, LARGE))
def test_parity_kd_network(name: str) -> None:
    fixture, core, images = _network(name)
    described = fixture.config
    names = list(feature_paths(core))
    with torch.no_grad():
        views = FeatureReader(core, names)(images)
    assert_like(views.output, fixture.expected["output"])
    compared = 0
    for place, feature in enumerate(one for one in names[:-1] if not one.endswith("_preact")):
        for kind, key in (("feat", feature), ("preact", f"{feature}_preact")):
            if f"{kind}.{place}.probe" in fixture.expected:
                _assert_probes(views.features[key], fixture.expected, f"{kind}.{place}")
                compared += 1
        if described["feature_shapes_batch2"]:
            assert list(views.features[feature].shape[1:]) == described["feature_shapes_batch2"][place][1:]
    assert compared == sum(key.endswith("probe") for key in fixture.expected)


def _assert_probes(found: torch.Tensor, expected: dict[str, torch.Tensor], key: str) -> None:
    """Of each image: mean, deviation, smallest and largest value, and 64 values of it."""
    flat = found.flatten(1)
    stats = torch.stack([flat.mean(1), flat.std(1), flat.amin(1), flat.amax(1)], dim=1)
    assert_like(stats, expected[f"{key}.stats"])
    assert_like(_probe(flat, 64), expected[f"{key}.probe"])


def _probe(flat: torch.Tensor, count: int) -> torch.Tensor:
    """Values of each row at equal distances, the first and the last among them."""
    return flat[:, torch.linspace(0, flat.shape[1] - 1, count, dtype=torch.float64).round().long()]


CHECKPOINTS = {"resnet20": "resnet20_best.pth", "wrn_16_1": "wrn_16_1_last.pth", "vgg8_narrow": "ckpt_epoch_40.pth"}
CHECKPOINTS["wrn_10_1"] = "student_best.pth"


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_parity_kd_checkpoint(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Files as the trainers wrote them become predictors whose outputs and features are the originals'."""
    fixture = parity_kd("networks", name)
    words = ["--arch", name, "--checkpoint", fixture.folder / CHECKPOINTS[name], "--normalise", "none"]
    code, _, error = typed(capsys, *words, "--resolution", 32, "--channels", 3, "--out", tmp_path / "p")
    assert code == 0, error
    network = load_classifier(tmp_path / "p", CPU).network
    assert isinstance(network, ForeignNetwork)
    expected = load_file(fixture.folder / "expected_checkpoint.safetensors")
    images = load_file(fixture.folder.parent / "inputs.safetensors")["x32"][:2]
    core = network.core
    names = list(feature_paths(core))
    with torch.no_grad():
        views = FeatureReader(core, names)(images)
    assert_like(views.output, expected.pop("ckpt.output"))
    expected.pop("ckpt.projection", None)
    stages = [one for one in names if not one.endswith("_preact")]
    for key, wanted in expected.items():
        _, kind, place, *probed = key.split(".")
        found = views.features[stages[int(place)] + ("_preact" if kind == "preact" else "")]
        assert_like(_probe(found.flatten(1), 1024) if probed else found, wanted)


LAYOUTS = [
    "{net_state_dict: module.*, optimizer_state_dict}",
    "{epoch, state_dict: backbone.* and proj_head.*, acc}",
    "backbone.* and proj_head.*",
    "{model: student.* and abfs.*}",
    "{model, module_list, criterion_list, trainable_list}",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_trainers_files(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    trunk, head = build_trunk("wrn_10_1", 3, 16), torch.nn.Linear(64, 7)
    plain = {**trunk.state_dict(), "fc.weight": head.weight.detach(), "fc.bias": head.bias.detach()}
    wrapped = {f"backbone.{name}": value for name, value in plain.items()} | {
        f"proj_head.{place}.{part}": torch.zeros(64, 64)[0 if part == "bias" else slice(None)]
        for place in (0, 2)
        for part in ("weight", "bias")
    }
    fused = {f"student.{name}": value for name, value in plain.items()} | {"abfs.0.conv1.0.weight": torch.zeros(4, 4)}
    parallel = {f"module.{name}": value for name, value in plain.items()}
    lists = {f"{index}.{name}": value for index in (0, 1) for name, value in plain.items()}
    written = {
        LAYOUTS[0]: {"net_state_dict": parallel, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        LAYOUTS[1]: {"epoch": 3, "state_dict": wrapped, "acc": 0.5},
        LAYOUTS[2]: wrapped,
        LAYOUTS[3]: {"model": fused},
        LAYOUTS[4]: {"model": plain, "module_list": lists, "criterion_list": {}, "trainable_list": {}},
    }[layout]
    torch.save(written, tmp_path / "c.pth")
    words = ["--arch", "wrn_10_1", "--checkpoint", tmp_path / "c.pth", "--normalise", "half", "--resolution", 16]
    more = ["--entry", "model"] if "module_list" in layout else []
    code, _, error = typed(capsys, *words, "--channels", 3, "--out", tmp_path / "p", *more)
    assert code == 0, error
    images = random_images(4, 3, 16)
    with torch.no_grad():
        wanted = head(trunk.eval()(images / 127.5 - 1.0))
    torch.testing.assert_close(load_classifier(tmp_path / "p", CPU)(images), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["backbone.stem.0.weight", "backbone.blocks.0.weight"])
def test_networks_of_earlier_versions_are_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    space = ClassLabels(("a", "b"))
    network = build_student("resnet8", 1, 16, space, width=0.25)
    card = {"architecture": "resnet8", "network": {"width": 0.25}, "channels": 1, "resolution_px": 16}
    older = {name: torch.zeros(4, 1, 3, 3), "head.weight": network.head.weight.detach()}
    FOLDER.write(tmp_path / "c", {**card, "label_space": space.to_json()}, older)
    with pytest.raises(UserError, match=r"as an earlier version had it.*again with train-classifier or distill"):
        load_classifier(tmp_path / "c", CPU)
    with pytest.raises(UserError, match="as an earlier version had it"):
        load_weights(network, older, tmp_path / "c.pth", "resnet8")


def test_parity_kd_covers_every_network_and_fixture() -> None:
    folder = parity_kd("networks", "resnet8").folder.parent
    compared = {*SMALL, *LARGE, *ALL_OTHERS}
    assert len(compared) == FIXTURES
    assert {path.name for path in folder.iterdir() if path.is_dir()} == compared
    assert {_own(name) for name in compared} == set(TRUNKS) - NOT_PUBLISHED

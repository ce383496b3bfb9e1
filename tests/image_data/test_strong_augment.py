"""Strong augmentation: the operations and the policy are those of torchvision, which changes one image a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from image_data import strong_augment
from image_data.strong_augment import auto_augment, rand_augment

_NAMES = {"shear-x": "ShearX", "shear-y": "ShearY", "translate-x": "TranslateX", "translate-y": "TranslateY",
          "autocontrast": "AutoContrast"}  # fmt: skip


def theirs(name: str) -> str:
    return _NAMES.get(name, name.capitalize())


def images(count: int = 6, channels: int = 3) -> torch.Tensor:
    drawn = torch.randint(0, 256, (count, channels, 4, 4), generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(drawn.float(), size=16, mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("name", list(strong_augment._OPERATIONS))
def test_operations_are_those_of_torchvision(name: str) -> None:
    whole: Any = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)
    if name == "identity":
        assert strong_augment._OPERATIONS[name](images(), 1.0, 128).equal(images())
        return
    magnitudes, two_ways = whole._AUGMENTATION_SPACE[theirs(name)]
    assert two_ways == (name in strong_augment._TWO_WAYS)
    levels = magnitudes(10, 16, 16)
    for step in (3, -9) if two_ways else (3, 9):
        magnitude = 0.0 if levels is None else float(levels[abs(step)]) * (1 if step > 0 else -1)
        wanted = whole._apply_image_or_video_transform(
            images(), theirs(name), magnitude, v2.InterpolationMode.NEAREST, whole._fill
        )
        found = strong_augment._OPERATIONS[name](images(), step / 9, 128)
        assert int((found.int() - wanted.int()).abs().max()) <= 1


def test_the_policy_is_the_published_one() -> None:
    whole: Any = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    wanted = [[(name, probability, magnitude) for name, probability, magnitude in two] for two in whole._policies]
    assert len(wanted) == len(strong_augment._policy()) == 25
    for ours, published in zip(strong_augment._policy(), wanted, strict=True):
        for (name, probability, level), (other, chance, magnitude) in zip(ours, published, strict=True):
            assert (theirs(name), probability) == (other, chance)
            assert magnitude is None or round(9 * level) == magnitude


@pytest.mark.parametrize("change", [auto_augment, rand_augment])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_keeps_its_shape_and_follows_from_the_seed(change: Any, channels: int) -> None:
    given = images(40, channels)
    torch.manual_seed(2)
    found = change(given)
    assert (found.shape, found.dtype) == (given.shape, torch.uint8)
    assert given.equal(images(40, channels))
    assert 0 < sum(bool(one.equal(two)) for one, two in zip(found, given, strict=True)) < 40 or change is rand_augment
    assert not found.equal(given)
    torch.manual_seed(2)
    assert change(given).equal(found)
    assert not change(given).equal(found)


def test_each_image_gets_its_own_operation() -> None:
    given, choices = images(), [("invert", 0.5), ("identity", 0.0), ("posterize", 0.5)] * 2
    found = strong_augment._changed(given, choices, 128)
    for row, (name, level) in enumerate(choices):
        assert found[row].equal(strong_augment._OPERATIONS[name](given[row : row + 1], level, 128)[0])

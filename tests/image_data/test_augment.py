"""Augmentation against a slow twin, and its borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image_data.augment import augment, check_augmentations
from image_data.real import load_real
from runtime.errors import UserError


def digits(count: int) -> torch.Tensor:
    return torch.from_numpy(load_real("digits", channels=3).val.pixels[:count])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_about_half_of_the_images_and_nothing_else() -> None:
    images = digits(200)
    changed = augment(images, ("flip",), generator())
    mirrored = 0
    for before, after in zip(images, changed, strict=True):
        if torch.equal(after, before):
            continue
        assert torch.equal(after, before.flip(2))
        mirrored += 1
    assert 70 < mirrored < 130


@pytest.mark.parametrize("pad_px", [0, 1, 2, 5])
def test_translate_is_edge_padding_and_a_crop(pad_px: int) -> None:
    images = digits(100)
    changed = augment(images, ("translate",), generator(1), pad_px).numpy()
    offsets = set()
    for before, after in zip(images.numpy(), changed, strict=True):
        padded = np.pad(before, ((0, 0), (pad_px, pad_px), (pad_px, pad_px)), mode="edge")
        crops = {
            (top, left)
            for top in range(2 * pad_px + 1)
            for left in range(2 * pad_px + 1)
            if np.array_equal(padded[:, top : top + 16, left : left + 16], after)
        }
        assert crops
        offsets |= crops
    assert len(offsets) == (2 * pad_px + 1) ** 2 or pad_px == 5


def test_default_reach_is_an_eighth_of_the_side() -> None:
    images = digits(50)
    assert torch.equal(augment(images, ("translate",), generator()), augment(images, ("translate",), generator(), 2))


def test_it_is_a_function_of_the_generator_and_leaves_the_input_alone() -> None:
    images = digits(32)
    kept = images.clone()
    first = augment(images, ("flip", "translate"), generator(3))
    assert torch.equal(first, augment(images, ("translate", "flip"), generator(3)))
    assert not torch.equal(first, augment(images, ("flip", "translate"), generator(4)))
    assert torch.equal(images, kept)
    assert first.dtype == torch.uint8
    assert first.is_contiguous()


def test_float_images_and_no_names() -> None:
    images = digits(8).float() / 127.5 - 1
    changed = augment(images, ("flip", "translate"), generator())
    assert changed.dtype == torch.float32
    assert changed.shape == images.shape
    assert torch.equal(augment(images, (), generator()), images)
    assert augment(images[:0], ("flip", "translate"), generator()).shape == (0, 3, 16, 16)


def test_wrong_use_is_named() -> None:
    with pytest.raises(UserError, match="'rotate' is unknown; known are flip, translate"):
        augment(digits(1), ("rotate",), generator())
    with pytest.raises(ValueError, match="N x C x H x W"):
        augment(digits(1)[0], ("flip",), generator())
    with pytest.raises(ValueError, match="negative"):
        augment(digits(1), ("translate",), generator(), -1)
    assert check_augmentations(["translate", "flip"], "here") == ("flip", "translate")

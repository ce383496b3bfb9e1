"""Image grids as PNG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from evaluation.report import ImageGrid, grid_of, image_grid, picture_strip
from image_data.labels import ContinuousLabels
from image_data.real import load_real


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_scales_by_whole_pixels(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, channels, 8, 8), dtype=np.uint8)
    page = opened(image_grid(images, columns=3, scale=4))
    inner = page[12:-12, 12:-12]
    assert inner.shape == ((3 * 9 - 1) * 4, (3 * 9 - 1) * 4, 3)
    second = inner[: 8 * 4 : 4, 9 * 4 : 17 * 4 : 4].transpose(2, 0, 1)
    np.testing.assert_array_equal(second, np.broadcast_to(images[1], (3, 8, 8)))
    assert (inner[-8 * 4 :, 9 * 4 :] == 255).all()  # the two empty places
    labelled = opened(image_grid(images, columns=3, scale=4, labels=["zero", "one", "two"]))
    assert labelled.shape[1] > page.shape[1]
    assert image_grid(images, 3, 4) == image_grid(images.copy(), 3, 4)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        image_grid(np.zeros((2, 1, 4, 4)))
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        picture_strip([ImageGrid("t", np.zeros((2, 1, 4, 4), np.uint8), ["a"])])


def test_grid_of_shows_each_class_and_each_range_of_angles() -> None:
    digits, turned = load_real("digits"), load_real("rotated-digits")
    grid = grid_of(digits.val, digits.label_space, "Real", "real", columns=5)
    assert list(grid.labels) == [str(digit) for digit in range(10) for _ in range(5)]
    assert grid.images.shape == (50, 1, 16, 16)
    again = grid_of(digits.val, digits.label_space, "Real", "real", columns=5)
    np.testing.assert_array_equal(grid.images, again.images)
    assert not np.array_equal(grid_of(digits.val, digits.label_space, "Real", columns=5, seed=1).images, grid.images)
    few = grid_of(digits.val, digits.label_space, "Real", columns=2, max_rows=3, rows=np.arange(100))
    assert list(dict.fromkeys(few.labels)) == ["0", "4", "9"]
    assert isinstance(turned.label_space, ContinuousLabels)
    angles = grid_of(turned.val, turned.label_space, "Turned", columns=3, max_rows=6)
    middles = [float(text) for text in dict.fromkeys(angles.labels)]
    assert middles == sorted(middles)
    assert len(middles) == 6
    strip = opened(picture_strip([grid, grid], scale=2))
    assert strip.shape[1] > 2 * (5 * 17 - 1) * 2

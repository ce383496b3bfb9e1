"""Image grids as PNG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from evaluation.report import ImageGrid, grid_of, picture_strip
from evaluation.report.grids import picture_rows
from image_data.labels import ContinuousLabels
from image_data.real import load_real


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_scales_by_whole_pixels(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, channels, 8, 8), dtype=np.uint8)
    grid = ImageGrid("", images, ["zero"] * 4 + ["one"] * 3, columns=4)
    page = opened(picture_strip([grid], scale=4))
    inner = page[-12 - (2 * 9 - 1) * 4 : -12, -12 - (4 * 9 - 1) * 4 : -12]
    second = inner[: 8 * 4 : 4, 9 * 4 : 17 * 4 : 4].transpose(2, 0, 1)
    np.testing.assert_array_equal(second, np.broadcast_to(images[1], (3, 8, 8)))
    assert (inner[-8 * 4 :, 3 * 9 * 4 :] == 255).all()  # the empty place
    assert picture_strip([grid], 4) == picture_strip([grid], 4)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        picture_strip([ImageGrid("t", np.zeros((2, 1, 4, 4)), ["a", "a"])])
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        picture_strip([ImageGrid("t", np.zeros((2, 1, 4, 4), np.uint8), ["a"])])


def test_a_row_for_each_class_and_for_ten_values_of_a_continuous_label() -> None:
    digits, turned = load_real("digits"), load_real("rotated-digits")
    grid = grid_of(digits.val, digits.label_space, "Real", "real", columns=5)
    assert list(grid.labels) == [str(digit) for digit in range(10) for _ in range(5)]
    assert grid.images.shape == (50, 1, 16, 16)
    backwards = grid_of(digits.val, digits.label_space, "Real", columns=5, order=np.arange(len(digits.val))[::-1])
    assert not np.array_equal(backwards.images, grid.images)
    angles = grid_of(turned.val, turned.label_space, "Turned", columns=3)
    shown = [float(text.split()[0]) for text in dict.fromkeys(angles.labels)]
    assert shown == sorted(shown)
    assert len(shown) == 10
    strip = opened(picture_strip([grid, grid], scale=2))
    assert strip.shape[1] > 2 * (5 * 17 - 1) * 2


def test_rows_of_continuous_labels_are_filled_by_the_nearest() -> None:
    space = ContinuousLabels(0.0, 1.0, "")
    rows, names = picture_rows(np.array([0.0, 0.0, 0.9, 1.0, 0.1]), space, 2, np.array([4, 3, 2, 1, 0]))
    assert rows.tolist() == [1, 0, 4, 2, 3]
    assert names == ["0", "0", "0.1", "0.9", "1"]
    many = np.linspace(0.0, 1.0, 1001)
    rows, names = picture_rows(many, space, 3)
    assert len(rows) == 30
    assert np.abs(many[rows] - np.array([float(name) for name in names])).max() < 0.06
    few, names = picture_rows(np.zeros(0), space)
    assert (len(few), names) == (0, [])

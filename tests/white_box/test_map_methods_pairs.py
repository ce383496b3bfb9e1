"""Methods on maps: which maps they take where none are named, and which networks they refuse before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from runtime.errors import UserError
from tests.support.map_methods import method_on
from white_box.losses.ab import Boundary
from white_box.losses.fitnet import Hint
from white_box.losses.regressors import fitting_convolution


def features(*widths: int, first_px: int = 16, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """stem and stage1, ... at half the size each, as wide as told."""
    names = ["stem", *(f"stage{index}" for index in range(1, len(widths)))]
    sizes = [first_px >> max(0, index - 1) for index in range(len(widths))]
    found = {name: torch.zeros(2, width, px, px) for name, width, px in zip(names, widths, sizes, strict=True)}
    return found | {"pooled": torch.zeros(2, widths[-1])} | more


STUDENT, WIDE, DEEP = features(4, 4, 6, 8), features(4, 8, 12, 16), features(4, 8, 12, 16, 20)
ALL_STAGES = ("stage1", "stage2", "stage3")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ab", ALL_STAGES), ("at", ALL_STAGES), ("nst", ALL_STAGES), ("vid", ALL_STAGES), ("fitnet", ("stage2",)),
        ("ft", ("stage3",)), ("sp", ("stage3",)), ("cc", ("pooled",)),
    ],
)  # fmt: skip
def test_the_published_features_are_read(name: str, wanted: tuple[str, ...]) -> None:
    method = method_on(name, STUDENT, WIDE)
    assert method.student_features == method.teacher_features == wanted


@pytest.mark.parametrize(("name", "wanted"), [("fsp", ("stem", *ALL_STAGES)), ("kdsvd", ALL_STAGES)])
def test_neighbouring_maps_of_equal_networks(name: str, wanted: tuple[str, ...]) -> None:
    method = method_on(name, STUDENT, STUDENT)
    assert method.student_features == method.teacher_features == wanted


def test_boundaries_are_read_before_the_relu_where_there_is_such_a_map() -> None:
    before = {f"stage{index}_preact": STUDENT[f"stage{index}"] - 1 for index in (1, 2, 3)}
    method = method_on("ab", STUDENT | before, WIDE)
    assert method.student_features == tuple(before)
    assert method.teacher_features == ALL_STAGES
    assert method_on("at", STUDENT | before, WIDE).student_features == ALL_STAGES


def test_networks_of_unequal_depth_meet_at_maps_of_equal_size() -> None:
    method = method_on("at", features(4, 4, 6, 8, first_px=8), DEEP)  # 8, 4, 2 and 16, 8, 4, 2
    assert method.student_features == ALL_STAGES
    assert method.teacher_features == ("stage2", "stage3", "stage4")
    assert method_on("sp", STUDENT, DEEP).teacher_features == ("stage4",)


def test_pairs_may_be_named() -> None:
    method = method_on("vid", STUDENT, DEEP, pairs=("stage4:stage1", "stem:stage3"))
    assert method.teacher_features == ("stage4", "stem")
    assert method.student_features == ("stage1", "stage3")
    assert method_on("cc", STUDENT, DEEP, pairs=("pooled:stage2",)).student_features == ("stage2",)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "settings", "message"),
    [
        ("fsp", STUDENT, WIDE, {}, "fsp needs equal widths: the student's 'stage1' has 4 channels, the teacher's"),
        ("kdsvd", STUDENT, WIDE, {}, "kdsvd needs equal widths"),
        ("fsp", STUDENT, DEEP, {}, "fsp needs equally many stages: the student has 3, the teacher 4"),
        ("kdsvd", STUDENT, STUDENT, {"pairs": ("stage1:stage1",)}, "name at least two pairs"),
        ("fitnet", STUDENT, WIDE, {"pairs": ("stage1:stage3",)}, "'stage3' and the teacher's 'stage1': no regressor"),
        ("ab", STUDENT, WIDE, {"pairs": ("stage1:stage3",)}, "no regressor brings 4 x 4 to 16 x 16"),
        ("cc", STUDENT, WIDE, {"pairs": ("stage1:stage1", "stage2:stage2")}, "name one pair"),
        ("cc", STUDENT, WIDE, {"pairs": ("stage1:nowhere",)}, "student has no feature 'nowhere'"),
        ("at", STUDENT, WIDE, {"pairs": ("pooled:pooled",)}, "no N x C x H x W map"),
        ("at", STUDENT, WIDE, {"weight": 0}, "above 0"),
        ("ab", STUDENT, WIDE, {"stage_share": 0}, "above 0"),
        ("fitnet", STUDENT, WIDE, {"relu": "perhaps"}, "'fit', 'always' or 'never'"),
    ],
)
def test_what_a_method_cannot_serve(name: str, student: Any, teacher: Any, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_on(name, student, teacher, **settings)


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [((8, 8), (4, 4), (3, 3)), ((4, 4), (8, 8), (4, 4)), ((8, 8), (8, 8), (1, 1)), ((8, 7), (6, 6), (3, 2))],
)
def test_a_regressor_gives_the_teachers_shape(
    student: tuple[int, int], teacher: tuple[int, int], kernel: tuple[int, int]
) -> None:
    layer: Any = fitting_convolution((3, *student), (5, *teacher))
    assert layer(torch.zeros(2, 3, *student)).shape == (2, 5, *teacher)
    assert layer.kernel_size == kernel


def test_signed_maps_get_no_relu_and_equal_shapes_no_connector() -> None:
    signed = {name: value - 1 for name, value in WIDE.items()}
    for teacher, relu in ((WIDE, True), (signed, False)):
        (hint,) = method_on("fitnet", STUDENT, teacher).losses  # type: ignore[misc]
        assert isinstance(hint, Hint)
        assert hint.regressor.relu is relu
    boundary = Boundary((4, 8, 8), (4, 8, 8), 1.0)
    assert isinstance(boundary.connector, nn.Identity)

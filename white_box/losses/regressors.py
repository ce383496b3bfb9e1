"""Adapters that bring a student's map to the size and width of a teacher's: convolution, batch norm, maybe ReLU.

Source: the regressors of FitNet and the connectors of AB in RepDistiller.  Where the student's map is twice as large,
a 3 x 3 convolution of stride 2; half as large, a transposed 4 x 4 one of stride 2; larger otherwise or equal, one
without padding of the size that is left over.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from runtime.errors import UserError
from white_box.losses.pairs import Shape


def fitting_convolution(student: Shape, teacher: Shape) -> nn.Module:
    """A convolution from maps of one shape (C, H, W) to those of another.  UserError where none of these fits."""
    (channels, *size), (wanted, *wanted_size) = student, teacher
    if all(one == 2 * other for one, other in zip(size, wanted_size, strict=True)):
        return nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
    if all(2 * one == other for one, other in zip(size, wanted_size, strict=True)):
        return nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
    if all(one >= other for one, other in zip(size, wanted_size, strict=True)):
        return nn.Conv2d(channels, wanted, (1 + size[0] - wanted_size[0], 1 + size[1] - wanted_size[1]))
    raise UserError(
        f"no regressor brings {size[0]} x {size[1]} to {wanted_size[0]} x {wanted_size[1]}; pair a map of the student "
        "that is larger, equal or half as large."
    )


class Regressor(nn.Module):
    """N x C_s x H_s x W_s -> N x C_t x H_t x W_t."""

    def __init__(self, student: Shape, teacher: Shape, relu: bool) -> None:
        super().__init__()
        self.convolution, self.norm, self.relu = fitting_convolution(student, teacher), nn.BatchNorm2d(teacher[0]), relu

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.convolution(maps))
        return functional.relu(maps) if self.relu else maps

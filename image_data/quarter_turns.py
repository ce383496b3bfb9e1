"""What a network learns from images of one class, whose labels teach nothing: by how many quarter turns each is turned.

Telling them apart takes shapes and their places, which makes useful features (Gidaris et al. 2018, arXiv 1803.07728).
The class's own label, 0, is then the answer for an upright image.
"""

from __future__ import annotations

import torch

from interfaces import LabelSpace

TURNS = 4


def learns_turns(label_space: LabelSpace) -> bool:
    """Whether there is one class only."""
    return label_space.kind == "classes" and label_space.width == 1


def outputs_for(label_space: LabelSpace) -> int:
    """How many outputs a network needs that learns these labels, or turns in their place."""
    return TURNS if learns_turns(label_space) else label_space.width


def turn(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Square N x C x H x W of any dtype -> (each turned by 0 to 3 quarters, int64 N: by how many)."""
    turns = torch.randint(TURNS, (len(images),), generator=generator)
    turned = images.clone()
    for quarters in range(1, TURNS):
        places = turns == quarters
        turned[places] = torch.rot90(images[places], quarters, (2, 3))
    return turned, turns

"""The real datasets that have a name: one line each, and a function under `@REAL_DATASETS.register` in its file."""

from __future__ import annotations

from collections.abc import Callable

from image_data.real.dataset import RealData
from image_data.real.request import LoadRequest
from runtime.registry import Registry

REAL_DATASETS: Registry[Callable[[LoadRequest], RealData]] = Registry("dataset")
REAL_DATASETS.declare("cifar10", "image_data.real.cifar10")
REAL_DATASETS.declare("digits", "image_data.real.digits")
REAL_DATASETS.declare("rotated-digits", "image_data.real.digits")

"""The registry of distillation methods, free of torch.

Its lines stand where the methods do: those on outputs in `classifiers/distillation`, those on features in
`white_box/losses`.  One name serves classifiers, generators and translators: a trainer refuses a method that requires
what it cannot give.
"""

from __future__ import annotations

from typing import Any

from runtime.registry import Registry

METHODS: Registry[Any] = Registry("method", lines_in=("classifiers.distillation", "white_box.losses"))

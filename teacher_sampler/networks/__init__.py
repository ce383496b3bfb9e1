"""Teacher architectures by name, one file each.

TEACHERS.get(name)(label_space, **arguments) builds an untrained network; a teacher's card holds its arguments.  Those
with settings can be trained here: their arguments are resolution_px, channels and the settings.  A network tells its
`latent_dim`.
"""

from __future__ import annotations

from typing import Any

from runtime.registry import Registry
from teacher_sampler.networks.settings import BigGanDeepSettings, BigGanSettings

LOADED = "loaded from a checkpoint (import-teacher), not trained here"

TEACHERS: Registry[Any] = Registry("teacher architecture")
TEACHERS.declare("biggan", "teacher_sampler.networks.biggan", BigGanSettings)
TEACHERS.declare("biggan-deep", "teacher_sampler.networks.biggan_deep", BigGanDeepSettings)
TEACHERS.declare("ccgan", "teacher_sampler.networks.ccgan", only=LOADED)
TEACHERS.declare("stylegan2-ada", "teacher_sampler.networks.stylegan2", only=LOADED)

__all__ = ["TEACHERS", "BigGanDeepSettings", "BigGanSettings"]

"""From options to the engine on which work items run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commands.support.options import SharedOptions
    from interfaces import Engine


def make_engine(options: SharedOptions, folder: Path, workers: int | None = None) -> Engine:
    """The engine that --engine names, for work that writes into `folder`.

    `workers`: the number of local processes where the command knows better than --workers.  A Ray cluster is used
    whole unless --workers bounds it.  Raises UserError where there is no such cluster, or the folder is not shared.
    """
    if options.engine == "ray":
        from runtime.ray_engine import RayEngine

        asked = options.workers if "workers" in options.model_fields_set else 0
        return RayEngine(folder, options.ray_address, workers=asked or None, device=options.device)
    from runtime.engines import LocalEngine

    return LocalEngine(workers or options.workers, device=options.device)

"""A dry run is the run itself up to where the work would begin, so it refuses what the run refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class WorkBegins(Exception):
    """Ends a dry run: how far the checks have come, into which folder the work would go, and whether it is done."""

    def __init__(self, checked: str, folder: Path | None = None, finished: bool = False) -> None:
        super().__init__(checked)
        self.checked, self.folder, self.finished = checked, folder, finished


def work_begins(options: Any, checked: str = "all", folder: Path | None = None, finished: bool = False) -> None:
    """Called by every command after its last check and before its first write or long computation.

    Does nothing in a run.  In a dry run it raises WorkBegins, which `commands.options.execute` expects.
    """
    if options.dry_run:
        raise WorkBegins(checked, folder, finished)

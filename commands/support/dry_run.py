"""A dry run is the run itself up to where the work would begin, so it refuses what the run refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


class WorkBegins(Exception):
    """Ends a dry run: how far the checks have come, into which folder the work would go, whether it is done, and what
    it would need.
    """

    def __init__(
        self, checked: str, folder: Path | None = None, finished: bool = False, needs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(checked)
        self.checked, self.folder, self.finished, self.needs = checked, folder, finished, needs


def work_begins(
    options: Any,
    checked: str = "all",
    folder: Path | None = None,
    finished: bool = False,
    needs: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Called by every command after its last check and before its first write or long computation.

    Does nothing in a run.  In a dry run it raises WorkBegins, which `commands.support.command_line.execute` expects.
    """
    if options.dry_run:
        raise WorkBegins(checked, folder, finished, needs() if needs is not None and not finished else None)

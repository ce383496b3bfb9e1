"""One JSON object a line, appended while training runs; what was logged past a resumed step is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.atomic import write_text
from runtime.safe_files import read_json_lines


class StatsLog:
    """Lines with an entry `step` (finished optimiser steps).  `writes`: False for ranks that only read."""

    def __init__(self, path: Path, resumed_step: int, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = read_json_lines(path) if path.exists() else []
        kept = [row for row in found if isinstance(row.get("step"), int) and row["step"] <= resumed_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, values: dict[str, Any]) -> None:
        """Append one line."""
        if not self.writes:
            return
        with self.path.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

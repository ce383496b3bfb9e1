"""One JSON object a line, appended while training runs; lines of steps that are still to do are dropped first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.atomic import write_text
from runtime.safe_files import read_json_lines


class StatsLog:
    """Lines with an entry `step`.

    to_do: the steps of which this process will write the lines; a stopped one may have been there before it.
    writes: False for ranks that only read.
    """

    def __init__(self, path: Path, to_do: range, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_json_lines(path) if path.exists() else []
        kept = [line for line in lines if isinstance(line.get("step"), int) and line["step"] not in to_do]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, values: dict[str, Any]) -> None:
        """Append one line."""
        if not self.writes:
            return
        with self.path.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

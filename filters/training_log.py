"""The lines of `stats.jsonl`: one JSON object a line, continued after a resume without repeated steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.atomic import write_text


class TrainingLog:
    """Appends objects that carry a `step`; opening it at a resumed step drops all lines past that step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept: list[str] = []
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    step = json.loads(line)["step"]
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a killed process left half-written
                if step <= resumed_step:
                    kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, entry: dict[str, Any]) -> None:
        """Append one object; `entry["step"]` is the number of finished steps."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

"""Parameters, multiply-adds and latency of the generators at hand and of every student classifier, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.options import SharedOptions
from commands.parts import load_generator
from commands.workspace import SEAL, resolve_input


class Options(SharedOptions):
    """Flags of benchmark."""

    teacher: str | None = Field(None, description="Folder of the teacher.")
    student: Path | None = Field(None, description="Folder of the student generator.")


def run(options: Options) -> dict[str, Any]:
    """Measure whatever of teacher and student is there."""
    from commands.comparison import compare_generators
    from runtime.devices import pick_device, set_threads

    device = pick_device(options.device)
    threads = set_threads(options.workers)
    found = {kind: _generator(kind, options, device) for kind in ("teacher", "student")}
    return {"threads": threads, "device": str(device), "cost": compare_generators(found)}


def _generator(kind: str, options: Options, device: Any) -> Any:
    given = getattr(options, kind)
    if given is None and not (options.workspace / kind / "latest" / SEAL[kind]).is_file():
        return None
    return load_generator(resolve_input(kind, given, options), device)


def show(result: dict[str, Any]) -> str:
    """The table of costs."""
    from commands.comparison import cost_table

    table = cost_table(result["cost"]) or "nothing to measure; give --teacher or --student"
    return f"{result['threads']} threads, {result['device']}\n{table}"

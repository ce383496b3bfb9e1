"""Write a student generator as a torch.export program (.pt2): one file, any batch size, checked after saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.options import SharedOptions
from commands.support.workspace import resolve_input
from runtime.errors import UserError


class Options(SharedOptions):
    """Flags of export; --out names the file."""

    student: Path | None = Field(None, description="Folder of the student generator.")


def run(options: Options) -> dict[str, Any]:
    """Export and compare the saved program with the network."""
    import torch

    from exporters.torch_export import export_student
    from student_trainer import load_student

    if options.student is None and not (options.workspace / "student" / "latest").exists():
        raise UserError(f"no student in {options.workspace}; run `python cli.py train-student` or give --student DIR.")
    folder = resolve_input("student", options.student, options)
    target = options.out or options.workspace / "student.pt2"
    if target.exists():
        raise UserError(f"--out {target} exists; give the name of a new file.")
    student = load_student(folder, torch.device("cpu"))
    work_begins(options)
    target.parent.mkdir(parents=True, exist_ok=True)
    exported = export_student(student, target)
    return {"file": str(target), "bytes": target.stat().st_size, "largest_difference": exported.largest_difference}

"""Check a dataset of fakes: the SHA-256 of every file, the CRC of every row, the digests of manifest and records."""

from __future__ import annotations

from typing import Any

from commands.command_record import record_problems
from commands.fake_options import FakesOptions, fakes_folder

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and no more."""


def run(options: Options) -> dict[str, Any]:
    """Read everything once; exit code 2 where something is wrong."""
    from image_data.fake import verify_fakes

    folder = fakes_folder(options)
    problems = [*record_problems(folder), *verify_fakes(folder)]
    return {"fakes": str(folder), "problems": problems, "exit_code": 2 if problems else 0}


def show(result: dict[str, Any]) -> str:
    """The problems, one a line."""
    if not result["problems"]:
        return f"{result['fakes']}: every byte is as it was written"
    repair = f"`python cli.py repair {result['fakes']}` makes the damaged units again"
    return "\n".join([*result["problems"], repair])

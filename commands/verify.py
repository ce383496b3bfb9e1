"""Check a dataset of fakes: the SHA-256 of every file, the CRC of every row, the digests of manifest and records."""

from __future__ import annotations

from typing import Any

from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.record import record_problems
from runtime.errors import UserError

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and no more."""


def run(options: Options) -> dict[str, Any]:
    """Read everything once; exit code 2 where something is wrong."""
    from commands.support.remedies import remedies
    from image_data.fake import verify_fakes

    for name in ("seed", "out", "workers"):
        if name in options.model_fields_set:
            raise UserError(f"--{name} does nothing for verify, which reads every byte that is there; leave it out.")
    folder = fakes_folder(options)
    work_begins(options)
    damage = verify_fakes(folder)
    problems = [*record_problems(folder), *damage]
    code = 2 if problems else 0
    return {"fakes": str(folder), "problems": problems, "remedies": remedies(folder, damage), "exit_code": code}


def show(result: dict[str, Any]) -> str:
    """The problems, one a line, and what mends them."""
    if not result["problems"]:
        return f"{result['fakes']}: every byte is as it was written"
    return "\n".join([*result["problems"], *result["remedies"]])

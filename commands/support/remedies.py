"""What mends the problems that `verify` finds in a dataset of fakes: which command, for which of its files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.fake.manifest import Manifest


def remedies(folder: Path, problems: list[str]) -> list[str]:
    """One sentence for each command that helps; problems that begin with no file of the dataset tell their own."""
    from image_data.fake.manifest import read_manifest
    from teacher_sampler.sampling.runs import is_growing

    try:
        manifest = read_manifest(folder)
    except UserError:
        return []  # the problem itself says what to do about a damaged manifest
    growing = is_growing(folder, manifest)
    wanted = {
        _command(problem.removeprefix(f"{folder}/").split(maxsplit=1)[0], manifest, growing) for problem in problems
    }
    number = manifest.content["per_label"]
    shown = shlex.quote(str(folder))
    said = {
        "sample": f"a run that extends {folder} is unfinished: the same `sample` command goes on with it, and one for "
        f"{number} fakes of each label takes it back",
        "repair": f"`python cli.py repair {shown}` makes the damaged units again",
        "score": f"`python cli.py score {shown} --predictor DIR` with their predictors makes the other scores again",
        "score --nearest": f"`python cli.py score {shown} --nearest` makes the distances again",
    }
    return [sentence for command, sentence in said.items() if command in wanted]


def _command(place: str, manifest: Manifest, growing: bool) -> str:
    """Which command mends the file in this place of the dataset; "" where none does."""
    from image_data.fake.manifest import NEAREST_PREFIX, RUN_FILE

    part, _, rest = place.rstrip(".:,").partition("/")
    if part == RUN_FILE:
        return "sample" if growing else "repair"
    if part == "pilot":
        return "repair" if rest in manifest.content["pilots"] else ""
    if part == "shards":
        listed = rest in {entry.name for entry in manifest.shards}
        return "repair" if listed else "sample" if growing else ""
    if part != "scores":
        return ""
    name, _, file = rest.partition("/")
    if name.startswith(NEAREST_PREFIX):
        return "score --nearest"
    if not file or name != (manifest.settings.get("predictor_digest") or "unnamed"):
        return "score"
    listed = file in {entry.name for entry in manifest.scores.get(name, [])}
    return "repair" if listed else "sample" if growing else ""

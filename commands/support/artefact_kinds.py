"""What a folder is: every flag that takes an artefact refuses another kind, and says what was given instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.safe_files import read_json_object
from teacher_sampler.remote.address import is_url

WANTED = {  # kind -> what it is called, and where it comes from
    "teacher": ("a teacher", "the folder that train-teacher or import-teacher made"),
    "student": ("a student generator", "the folder that train-student made"),
    "filter": ("a filter", "the folder that fit-filter made"),
    "predictor": ("a classifier", "the folder that train-classifier, import-predictor or distill made"),
    "fakes": ("a dataset of fakes", "the folder that sample made"),
    "outputs": ("a folder of stored outputs", "the one that score --views made"),
}
FLAGS = {  # option name -> kind of artefact
    "teacher": "teacher",
    "student": "student",
    "filter": "filter",
    "predictor": "predictor",
    "init_from": "predictor",
    "fakes": "fakes",
    "outputs": "outputs",
}
_OF_A_FILE = {  # what makes one of a single file
    "teacher": "import it with import-teacher",
    "predictor": "import it with import-predictor",
    "fakes": "make a teacher of its images with import-teacher --arch images",
}
_OTHERS = {
    "judge": "a judge",
    "rho": "a search of rho",
    "evaluation": "an evaluation",
    "comparison": "a comparison",
    "classifier": "a classifier",
}

_BY_FILE = {"manifest.json": "fakes", "choice.yaml": "rho"}
_BY_COMMAND = {"evaluate": "evaluation", "search-rho": "rho", "compare": "comparison"}


def check_kind(flag: str, kind: str, path: Path) -> None:
    """UserError where `path` is certainly no artefact of this kind; the loaders look at the rest.

    flag: as the user typed it, with its dashes.
    """
    name, source = WANTED[kind]
    description = describe(path)
    if description is None or description == name:
        return
    inside = path / "latest" if path.name == kind else path / kind / "latest"
    remedy = inside if inside.is_dir() else source
    if description == "a file" and kind in _OF_A_FILE:
        remedy = f"{remedy}, or {_OF_A_FILE[kind]}"
    raise UserError(f"{path} is {description}; {flag} needs {name}: give {remedy}.")


def check_kinds(options: Any) -> None:
    """`check_kind` for every flag that names a folder which is there."""
    for flag, kind, path in given_folders(options):
        check_kind(flag, kind, path)


def given_folders(options: Any) -> list[tuple[str, str, Path]]:
    """(flag, kind, path) of every artefact that the options name."""
    given = ((name, kind, getattr(options, name, None)) for name, kind in FLAGS.items())
    return [
        ("--" + name.replace("_", "-"), kind, Path(value))
        for name, kind, value in given
        if value is not None and str(value) != "none" and not is_url(value)
    ]


def describe(path: Path) -> str | None:
    """What lies there, as a noun: "a teacher", "a file"; None where it is unclear, as for an unfinished folder."""
    if not path.exists():
        return None
    if not path.is_dir():
        return "a file"
    kind = next((kind for name, kind in _BY_FILE.items() if (path / name).is_file()), None)
    kind = kind or _by_card(_object(path / "card.json")) or _by_record(_object(path / "command.json"))
    if kind is not None:
        return WANTED[kind][0] if kind in WANTED else _OTHERS[kind]
    if any((path / name / "latest").exists() for name in WANTED) or (path / "latest").exists():
        return "a folder of artefacts"
    if any((path / name).exists() for name in ("card.json", "command.json", "run.json", "checkpoints")):
        return None
    return f"{'a' if any(path.iterdir()) else 'an empty'} folder without card.json or manifest.json"


def _by_card(card: dict[str, Any]) -> str | None:
    architecture = card.get("architecture")
    if card.get("kind") == "classifier":
        return "predictor"
    if card.get("kind") == "density ratio":
        return "filter"
    if card.get("kind") == "outputs":
        return "outputs"
    if isinstance(architecture, str) and architecture.startswith("judge"):
        return "judge"
    if isinstance(architecture, str) and "latent" in card:
        from student_trainer import GENERATORS

        return "student" if architecture in GENERATORS else "teacher"
    return None


def _by_record(record: dict[str, Any]) -> str | None:
    content = record.get("content")
    return _BY_COMMAND.get(str(content.get("command"))) if isinstance(content, dict) else None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or it is damaged, which its loader says better."""
    try:
        return read_json_object(path)
    except UserError:
        return {}

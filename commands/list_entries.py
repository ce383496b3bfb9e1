"""List what the options accept: teachers, student generators, student classifiers, losses, datasets."""

from __future__ import annotations

from typing import Any

from commands.options import SharedOptions


class Options(SharedOptions):
    """No flags of its own."""


def run(options: SharedOptions) -> dict[str, Any]:
    """The names in every registry."""
    from classifiers import DISTILLERS, STUDENTS
    from classifiers.foreign.normalisation import NORMALISATIONS
    from image_data.real import REAL_DATASETS
    from student_trainer import GENERATORS
    from teacher_sampler import TEACHERS
    from teacher_sampler.importers import IMPORTERS
    from white_box import WHITE_BOX_LOSSES

    registries = (
        REAL_DATASETS,
        IMPORTERS,
        TEACHERS,
        GENERATORS,
        STUDENTS,
        DISTILLERS,
        WHITE_BOX_LOSSES,
        NORMALISATIONS,
    )
    return {registry.kind: list(registry) for registry in registries}


def show(result: dict[str, Any]) -> str:
    """One line a registry."""
    return "\n".join(f"{kind}: {', '.join(names)}" for kind, names in result.items())

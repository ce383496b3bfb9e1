"""List what the options accept, and how each is used: datasets, teachers, student generators, classifiers, losses."""

from __future__ import annotations

from typing import Any

from commands.support.options import SharedOptions


class Options(SharedOptions):
    """No flags of its own."""


def run(options: SharedOptions) -> dict[str, Any]:
    """Registry -> name -> how it is used."""
    from classifiers import DISTILLERS, STUDENTS
    from classifiers.foreign.normalisation import NORMALISATIONS
    from evaluation.metrics import METRICS
    from image_data.fake import EXPORT_FORMATS
    from image_data.real import REAL_DATASETS
    from student_trainer import GENERATORS
    from teacher_sampler import TEACHERS
    from teacher_sampler.importers import IMPORTERS
    from teacher_sampler.training.settings import TRAINABLE
    from white_box import WHITE_BOX_LOSSES

    trains, loads = "train-teacher --architecture", "loaded from a teacher's folder (import-teacher), not trained here"
    uses: dict[Any, str] = {
        REAL_DATASETS: "--data",
        IMPORTERS: "import-teacher --arch",
        GENERATORS: "train-student --network",
        STUDENTS: "train-classifier, distill --network; search-rho --networks",
        DISTILLERS: "distill, search-rho --method",
        WHITE_BOX_LOSSES: "train-student --white-box --white-box-losses NAME=WEIGHT",
        NORMALISATIONS: "import-predictor --normalise",
        METRICS: "evaluate",
        EXPORT_FORMATS: "export-fakes --to",
    }
    found: dict[str, Any] = {registry.kind: dict.fromkeys(registry, use) for registry, use in uses.items()}
    found[TEACHERS.kind] = {name: trains if name in TRAINABLE else loads for name in TEACHERS}
    return found


def show(result: dict[str, Any]) -> str:
    """One line a registry and use."""
    lines = []
    for kind, entries in result.items():
        for use in dict.fromkeys(entries.values()):
            names = ", ".join(name for name in entries if entries[name] == use)
            lines.append(f"{kind}: {names}  ({use})")
    return "\n".join(lines)

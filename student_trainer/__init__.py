"""Light student generators: trained from stored (latents, label, image) triples, loaded as teachers."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from student_trainer.building import build_student as build_student
    from student_trainer.networks import GENERATORS as GENERATORS
    from student_trainer.settings import StudentSettings as StudentSettings
    from student_trainer.trainer import check_student as check_student
    from student_trainer.trainer import load_student as load_student
    from student_trainer.trainer import train_student as train_student

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "GENERATORS": "student_trainer.networks",
        "StudentSettings": "student_trainer.settings",
        "build_student": "student_trainer.building",
        "check_student": "student_trainer.trainer",
        "load_student": "student_trainer.trainer",
        "train_student": "student_trainer.trainer",
    },
)

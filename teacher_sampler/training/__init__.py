"""Training of teachers."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from teacher_sampler.training.settings import TeacherSettings as TeacherSettings
    from teacher_sampler.training.trainer import train_teacher as train_teacher

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "TeacherSettings": "teacher_sampler.training.settings",
        "train_teacher": "teacher_sampler.training.trainer",
    },
)

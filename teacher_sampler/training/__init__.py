"""Training of teachers."""

from teacher_sampler.training.settings import TeacherSettings
from teacher_sampler.training.trainer import train_teacher

__all__ = ["TeacherSettings", "train_teacher"]

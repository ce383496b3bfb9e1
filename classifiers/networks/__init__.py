"""The light classifiers and regressors, by name: `STUDENTS`, and `build_student`."""

from classifiers.networks.student import STUDENTS, StudentNetwork, build_student

__all__ = ["STUDENTS", "StudentNetwork", "build_student"]

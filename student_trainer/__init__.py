"""Light student generators: trained from stored (latents, label, image) triples, loaded as teachers, exported."""

from student_trainer.export import ExportedStudent, export_student
from student_trainer.networks.tinygan import GENERATORS
from student_trainer.settings import StudentSettings
from student_trainer.trainer import load_student, train_student
from student_trainer.training_state import build_student

__all__ = [
    "GENERATORS",
    "ExportedStudent",
    "StudentSettings",
    "build_student",
    "export_student",
    "load_student",
    "train_student",
]

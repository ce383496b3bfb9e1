"""Light student generators: trained from stored (latents, label, image) triples, loaded as teachers, exported."""

from student_trainer.networks.tinygan import GENERATORS
from student_trainer.settings import StudentSettings
from student_trainer.trainer import load_student, train_student

__all__ = ["GENERATORS", "StudentSettings", "load_student", "train_student"]

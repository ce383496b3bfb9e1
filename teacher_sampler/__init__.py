"""Teachers: their networks, their training, their folders on disk, and the sampler."""

from teacher_sampler.loaders.folder import load_teacher
from teacher_sampler.networks import TEACHERS

__all__ = ["TEACHERS", "load_teacher"]

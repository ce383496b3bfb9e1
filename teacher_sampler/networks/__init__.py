"""Teacher architectures by name: TEACHERS.get(name)(arguments, label_space) builds an untrained network."""

from teacher_sampler.networks.biggan import BigGANGenerator
from teacher_sampler.networks.registry import TEACHERS

__all__ = ["TEACHERS", "BigGANGenerator"]

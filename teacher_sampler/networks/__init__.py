"""Teacher architectures by name: TEACHERS.get(name)(arguments, label_space) builds an untrained network."""

from teacher_sampler.networks.biggan import BigGANGenerator
from teacher_sampler.networks.biggan_deep import BigGANDeepGenerator
from teacher_sampler.networks.ccgan import CcGANGenerator
from teacher_sampler.networks.registry import TEACHERS
from teacher_sampler.networks.stylegan2 import StyleGAN2Generator

__all__ = ["TEACHERS", "BigGANDeepGenerator", "BigGANGenerator", "CcGANGenerator", "StyleGAN2Generator"]

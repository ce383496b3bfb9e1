"""From foreign teachers to teacher folders: IMPORTERS.get(arch)(request), one importer for each kind of file."""

from teacher_sampler.black_box import program_importing as programs
from teacher_sampler.black_box import ready_images_importing as ready_images
from teacher_sampler.importers import biggan, ccgan, stylegan2_ada, variant
from teacher_sampler.importers.registry import IMPORTERS
from teacher_sampler.remote import importing as http

__all__ = ["IMPORTERS", "biggan", "ccgan", "http", "programs", "ready_images", "stylegan2_ada", "variant"]

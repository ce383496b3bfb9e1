"""From foreign teachers to teacher folders: IMPORTERS.get(arch)(request), one importer for each kind of file."""

from teacher_sampler.importers import biggan, ccgan, http, programs, ready_images, stylegan2_ada, variant
from teacher_sampler.importers.registry import IMPORTERS

__all__ = ["IMPORTERS", "biggan", "ccgan", "http", "programs", "ready_images", "stylegan2_ada", "variant"]

"""Teachers: their networks, their training, their folders on disk, and the sampler."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from teacher_sampler.loading import load_teacher as load_teacher
    from teacher_sampler.networks import TEACHERS as TEACHERS

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "TEACHERS": "teacher_sampler.networks",
        "load_teacher": "teacher_sampler.loading",
    },
)

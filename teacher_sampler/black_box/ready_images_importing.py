"""From ready-made images (class folders, a table of labels, HDF5, one of our own fake datasets) to a teacher folder."""

from __future__ import annotations

from functools import partial

import numpy as np

from image_data.real.whole import LabelWishes, open_whole
from image_data.seen import read_seen
from teacher_sampler.black_box.ready_images import write_images
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest, no_truncation


@IMPORTERS.register("images")
def import_images(request: ImportRequest) -> ImportedTeacher:
    """All images of `request.path`, of whatever role; nothing is split off."""
    no_truncation("images", request)
    wishes = LabelWishes(request.label_range, request.label_unit or None, request.class_names)
    source = open_whole(request.path, request.resolution_px, request.channels, wishes)
    _, counts = np.unique(source.labels, axis=0, return_counts=True)
    return ImportedTeacher(
        architecture="images",
        arguments={},
        resolution_px=source.shape[1],
        channels=source.shape[0],
        label_space=source.label_space,
        latent={},
        write=partial(write_images, source=source, maker=read_seen(request.path)),
        notes={
            "images": len(source.labels),
            "labels": len(counts),
            "images_of_a_label": [int(counts.min()), int(counts.max())],
        },
    )

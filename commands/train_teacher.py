"""Train a teacher GAN on real images: BigGAN for classes, the same network with a label embedding for values.

The result is a folder, card.json + weights.safetensors.  Training continues exactly after any stop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from commands.support.builders import load_data
from commands.support.lineage import record_seen
from commands.support.options import DataOptions, settings_from, settings_options
from commands.support.teachers import summary
from commands.support.workspace import artefact
from image_data.seen_names import GAN
from teacher_sampler.training.settings import TeacherSettings

_Settings: Any = settings_options(TeacherSettings, "TeacherFlags", exclude={"seed"})


class Options(_Settings, DataOptions):
    """Flags of train-teacher."""

    aliases = {
        "architecture": "generator",
        **{name: f"generator.{name}" for name in ("width", "latent_dim", "label_dim")},
        "attention_px": ("generator.attention_px", "discriminator.attention_px"),
        "spectral_generator": "generator.spectral_normed",
        "discriminator_width": "discriminator.width",
        "lr_g": "lr",
        "lr_d": "lr_discriminator",
        "stats_every_steps": "log_every_steps",
    }


def run(options: Options) -> dict[str, Any]:
    """Train, or continue, or find it done."""
    from runtime.ranks import join_ranks
    from teacher_sampler.training import train_teacher
    from teacher_sampler.training.needs import teacher_needs

    ranks, device = join_ranks(options.device, options.batch_size)
    settings = settings_from(options, TeacherSettings)
    data = load_data(options)
    settings.check(data.allowed_augmentations)
    needs = partial(teacher_needs, data.train, data.label_space, settings, data.train.pixels.nbytes, device)
    with artefact("train-teacher", "teacher", options, {"data": data.digest}, ranks=ranks, needs=needs) as output:
        if not output.finished:
            seen = record_seen(output.folder, data.seen_by(GAN, val=False)) if ranks.main else {}
            train_teacher(
                data.train,
                data.label_space,
                settings,
                output.folder,
                device,
                allowed_augmentations=data.allowed_augmentations,
                trained_on={**data.describe(), **seen},
                ranks=ranks,
            )
    return {"teacher": str(output.folder), **summary(output.folder)}

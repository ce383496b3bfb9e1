"""Fit the filter: a feature extractor on real images, then the conditional density ratio in its feature space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands.support.builders import load_data
from commands.support.lineage import record_seen, seen_of
from commands.support.options import DataOptions, settings_from, settings_options
from commands.support.teachers import ChosenTeacher, TeacherOptions, adapted_teacher
from commands.support.workspace import artefact
from filters.settings import FilterSettings
from image_data.seen_names import RATIO

_Settings: Any = settings_options(FilterSettings, "FilterFlags", exclude={"seed"})


class Options(_Settings, TeacherOptions, DataOptions):
    """Flags of fit-filter."""

    aliases = {"evaluate_every_steps": "validate_every_steps"}


def run(options: Options) -> dict[str, Any]:
    """Fit, or continue, or find it done."""
    from filters import check_fit, fit_filter
    from image_data.label_meeting import LabelHolder, meet
    from runtime.devices import pick_device, set_threads

    device = pick_device(options.device)
    set_threads(1)
    settings = settings_from(options, FilterSettings)
    data = load_data(options)
    teacher = ChosenTeacher(options)
    parents = {"data": data.digest, "teacher": teacher.digest}
    seen = adapted_teacher(teacher.reference, teacher.adaptation, device)
    real = LabelHolder("data", f"--data {options.data}", data.label_space)
    meet(real, LabelHolder("teacher", f"--teacher {teacher.reference}", teacher.label_space), data.train.labels)
    check_fit(data.train, data.label_space, seen, settings, data.allowed_augmentations)
    with artefact("fit-filter", "filter", options, parents) as output:
        if not output.finished:
            own = data.seen_by(RATIO, val=False)
            fit_filter(
                data.train,
                data.label_space,
                seen,
                settings,
                output.folder,
                device,
                data.allowed_augmentations,
                record_seen(output.folder, own, seen_of("teacher", teacher.reference)),
            )
    return {"filter": str(output.folder), **_means(output.folder)}


def _means(folder: Path) -> dict[str, Any]:
    """The card's evidence, with a warning where the ratio cannot choose."""
    from filters.fit import read_filter_card
    from image_data.fake.warnings import LEAST_SPREAD
    from runtime.progress import say

    card = read_filter_card(folder)
    evidence = {name: card[name] for name in ("mean_ratio", "ratio_spread_on_fakes", "is_constant")}
    if evidence["is_constant"] or evidence["ratio_spread_on_fakes"] < LEAST_SPREAD:
        say("warning: the density ratio is nearly the same on all fakes, so the filter chooses nothing")
    return evidence

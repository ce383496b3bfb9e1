"""Add a predictor's outputs and errors to a dataset of fakes; the shards themselves stay untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.fake_options import FakesOptions, fakes_folder
from commands.parts import error_function, predictor_factory
from commands.workspace import artefact_digest, resolve_input

POSITIONAL = "fakes"


class Options(FakesOptions):
    """Flags of score."""

    predictor: Path | None = Field(None, description="Folder of the predictor.")


def run(options: Options) -> dict[str, Any]:
    """Score every shard that has no scores of this predictor yet."""
    from image_data.fake import open_fakes
    from runtime.engines import LocalEngine
    from teacher_sampler.scoring import score

    folder = fakes_folder(options)
    predictor = resolve_input("predictor", options.predictor, options)
    digest = artefact_digest("predictor", predictor)
    error = error_function(open_fakes(folder).label_space)
    score(folder, predictor_factory(predictor, options.device), error, digest, LocalEngine(options.workers))
    return {"fakes": str(folder), "scores": open_fakes(folder).score_sets()}

"""Gathers the calibration of a dataset of fakes for `inspect`, `sample` and the report: its numbers, its filter's card,
its newest evaluation, and what is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.support.record import COMMAND_FILE, recorded_parents
from commands.support.seals import readable, seal_note
from commands.support.workspace import SEAL, artefact_digest
from runtime.errors import UserError

if TYPE_CHECKING:
    from evaluation.report.calibration import Calibration
    from image_data.fake import FakeDataset


def calibration_of(
    folder: Path, workspaces: Sequence[Path], given_filter: Path | None = None, kept: Mapping[str, Any] | None = None
) -> Calibration:
    """Read what there is.  workspaces: where the filter and evaluations of these fakes are looked for; kept: what a
    --keep leaves.  Raises UserError where `given_filter` is not the filter of these fakes.
    """
    from evaluation.filter_effect import filter_effects
    from evaluation.report.calibration import Calibration
    from filters.fit import read_filter_card
    from image_data.fake import describe_fakes, open_fakes
    from image_data.fake.variety import label_variety
    from image_data.fake.warnings import Warned, warnings_of

    fakes = open_fakes(folder)
    described = describe_fakes(folder)
    filter_folder = _filter_of(described["parents"].get("filter"), folder, workspaces, given_filter)
    card = None if filter_folder is None else read_filter_card(filter_folder)
    problems: list[str] = []
    evaluation = _evaluation_of(described["digest"], workspaces)
    rows = None if evaluation is None else readable(evaluation / SEAL["evaluation"], problems)
    evaluation = None if rows is None else evaluation
    if filter_folder is not None:
        seal_note(filter_folder / SEAL["filter"], problems, problems)
    seal_note(folder / COMMAND_FILE, problems, problems)
    variety = label_variety(fakes) if described["nearest"] is None else None
    own = evaluation is not None and _measured_its_teacher(fakes, evaluation)
    effects = [] if rows is None else filter_effects(rows, described["rejects"] and own)
    failing = [Warned("no help", effect.sentence) for effect in effects if effect.verdict != "helps"]
    return Calibration(
        fakes=fakes,
        described=described,
        filter=filter_folder,
        card=card,
        evaluation=evaluation,
        rows=rows,
        variety=variety,
        effects=effects,
        warnings=[*failing, *warnings_of(described, card, variety, kept)],
        missing=[*problems, *_missing(folder, described, card, own, workspaces)],
    )


def calibration_json(folder: Path, workspace: Path, given_filter: Path | None = None) -> dict[str, Any]:
    """What `sample` prints of its dataset."""
    known = calibration_of(folder, workspaces_of(folder, workspace), given_filter)
    return {"fakes": str(folder), **known.to_json()}


def workspaces_of(folder: Path, workspace: Path) -> list[Path]:
    """Where the relatives of a dataset may lie: beside it, and in the workspace named by the options."""
    beside = folder.resolve().parent.parent
    return [beside, workspace] if (beside / "fakes").is_dir() else [workspace]


def _filter_of(digest: str | None, folder: Path, workspaces: Sequence[Path], given: Path | None) -> Path | None:
    if given is not None:
        if digest is None:
            raise UserError(f"--filter {given}: the fakes {folder} were sampled without a filter; leave it out.")
        if artefact_digest("filter", given) != digest:
            raise UserError(f"--filter {given} is not the filter of the fakes {folder}; give their own, or none.")
        return given
    for card in (card for place in workspaces for card in sorted((place / "filter").glob(f"*/{SEAL['filter']}"))):
        if digest is not None and not card.parent.is_symlink() and _digest_of(card.parent) == digest:
            return card.parent
    return None


def _digest_of(folder: Path) -> str | None:
    """A filter's digest; None where the folder, which nobody asked for, is damaged."""
    try:
        return artefact_digest("filter", folder)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def _evaluation_of(digest: str, workspaces: Sequence[Path]) -> Path | None:
    """The newest finished evaluation of these fakes."""
    finished: list[tuple[float, Path]] = []
    for place in workspaces:
        for result in sorted((place / "evaluation").glob(f"*/{SEAL['evaluation']}")):
            if not result.parent.is_symlink() and recorded_parents(result.parent).get("fakes") == digest:
                finished.append((result.stat().st_mtime, result.parent))
    return max(finished)[1] if finished else None


def _measured_its_teacher(fakes: FakeDataset, evaluation: Path) -> bool:
    """Whether the evaluation's teacher is the one that these fakes come from, so that it shows them as drawn."""
    from teacher_sampler.adapted import Adaptation

    content = fakes.manifest.content
    measured = recorded_parents(evaluation).get("teacher")
    if measured is None:
        return False
    adaptation = Adaptation.from_json(content.get("teacher", {}).get("adaptation", {}))
    return bool(adaptation.identity(measured) == content["settings"]["teacher_digest"])


def _missing(
    folder: Path,
    described: Mapping[str, Any],
    card: Mapping[str, Any] | None,
    measured: bool,
    workspaces: Sequence[Path],
) -> list[str]:
    """What is not there, with the command that makes it."""
    quoted = shlex.quote(str(folder))
    sentences = []
    if described["candidate_ratio"] is not None and card is None:
        sentences.append("the filter was not found, so ratios on real images are not shown; give --filter DIR")
    if card is not None and "ratio_percentiles" not in card:
        sentences.append(
            "the filter's card has means of r on real images and no distributions; fit-filter into a new --out has them"
        )
    if not described["scores"] and len(described["label_space"].get("names", ())) != 1:
        sentences.append(f"no teacher errors; make them with: python cli.py score {quoted} --predictor DIR")
    if described["nearest"] is None:
        sentences.append(
            f"no distances to training images (memorisation, near-duplicates); make them with: "
            f"python cli.py score {quoted} --nearest"
        )
    if not measured and (described["rejects"] or described["scores"]):
        place = f" --workspace {shlex.quote(str(workspaces[0]))}" if workspaces else ""
        sentences.append(
            "whether the filters help was not measured on these fakes and their teacher; measure it with: "
            f"python cli.py evaluate --fakes {quoted}{place}"
        )
    return sentences

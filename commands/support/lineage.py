"""What the parts of a run have seen: read from artefacts, handed on to their children, and stated beside a number.

The file and the rule are `image_data.seen`.  Its SHA-256 stands in the card (`trained_on.seen`); a dataset of fakes has
the file beside its manifest, and each score set from another predictor one of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_data import seen_names
from runtime.safe_files import read_json_object, read_sealed_json
from teacher_sampler.remote.address import is_url

if TYPE_CHECKING:
    from image_data.real import RealData
    from image_data.seen import Seen

_OWN = {
    "teacher": seen_names.GAN,
    "filter": seen_names.RATIO,
    "predictor": seen_names.CLASSIFIER,
    "outputs": seen_names.CLASSIFIER,  # of stored outputs: as of the predictor that gave them
}
_MADE_ELSEWHERE = "import-"  # how the commands begin that write folders of foreign weights


def seen_of(kind: str, folder: str | Path, part: str | None = None) -> Seen:
    """What a teacher, student, filter or classifier and all behind it have seen; `part`: its name in the child.

    UserError where the folder's file is damaged or lost.  A folder that names none is unknown.
    """
    from image_data.seen import Seen, read_seen

    own = part or _OWN.get(kind, kind)
    if is_url(folder):
        return Seen.nothing_known(own, "served elsewhere")
    folder = Path(folder)
    card = read_sealed_json(folder / "card.json", "restore it, or make it again")
    trained_on = card.get("trained_on")
    stated = trained_on.get("seen") if isinstance(trained_on, dict) else None
    record = read_seen(folder, stated) if stated is not None else None
    if record is None:
        return Seen.nothing_known(own, _why(folder, card))
    return record.renamed(_OWN.get(kind, own), own)


def _why(folder: Path, card: dict[str, Any]) -> str:
    if card.get("architecture") == "http":
        return "served elsewhere"
    record = folder / "command.json"
    content = read_json_object(record).get("content") if record.is_file() else None
    command = str(content.get("command", "")) if isinstance(content, dict) else ""
    return "imported" if command.startswith(_MADE_ELSEWHERE) else "it does not say"


def seen_of_fakes(folder: Path, keep: str | None = None) -> Seen:
    """What the teacher, filter and predictor of these fakes have seen; with a `keep`, distance sets have a say too.

    Where the errors are those of another predictor than the sampling run's, that one's images are among them.
    """
    from image_data.fake import open_fakes
    from image_data.fake.manifest import NEAREST_PREFIX, score_path
    from image_data.seen import Seen, merge, read_seen

    fakes = open_fakes(folder)
    made_from = {"teacher": seen_names.GAN, "filter": seen_names.RATIO, "predictor": seen_names.PREDICTOR}
    own = read_seen(folder)
    records = [own] if own is not None else [
        Seen.nothing_known(part, "the fakes do not say") for kind, part in made_from.items()
        if kind in fakes.manifest.parents
    ]  # fmt: skip
    sets = fakes.score_sets()
    if sets and fakes.manifest.parents.get("predictor") not in sets:
        for name in sets:
            scored = read_seen(score_path(folder, name, ""))
            records.append(scored or Seen.nothing_known(seen_names.PREDICTOR, "the scores do not say"))
    if keep is not None:
        near = sorted(path for path in (folder / "scores").glob(f"{NEAREST_PREFIX}*") if path.is_dir())
        records += [seen for place in near if (seen := read_seen(place)) is not None]
    return merge(records)


def record_seen(folder: Path, *several: Seen) -> dict[str, str]:
    """Write the merged file into a folder that is being written; returns the entry for the card's `trained_on`."""
    from image_data.seen import merge, write_seen

    return {"seen": write_seen(folder, merge(several))}


def parts_of_training(options: Any, fakes: Path | None, predictor: Path | None, outputs: Path | None = None) -> Seen:
    """Everything that has a say in a classifier's training, beside its own images."""
    from image_data.seen import merge

    records = []
    if fakes is not None:
        records.append(seen_of_fakes(fakes, getattr(options, "keep", None)))
    if predictor is not None:
        records.append(seen_of("predictor", predictor, seen_names.SOFT_LABELS))
    if outputs is not None:
        records.append(seen_of("outputs", outputs, seen_names.SOFT_LABELS))
    if getattr(options, "init_from", None) is not None:
        records.append(seen_of("predictor", options.init_from, seen_names.START))
    return merge(records)


def checked(options: Any, data: RealData, seen: Seen, test: bool, judged: bool = False) -> None:
    """UserError with counts where the parts have seen the images that are to score them (`leak_guard`)."""
    from classifiers.leak_guard import refuse_seen_images

    refuse_seen_images(f"--data {options.data}, fold {options.fold}", data, seen, test, judged)

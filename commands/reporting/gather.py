"""From a workspace's artefacts to the parts of a report: pictures, filter evidence, quality, costs, the rho curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from commands.support.builders import load_generator
from commands.support.record import COMMAND_FILE
from commands.support.seals import readable, seal_note
from commands.support.teachers import teacher_behind
from commands.support.workspace import SEAL
from evaluation.cost import cost_table, generator_costs
from evaluation.quality import metric_guide, quality_table
from evaluation.report import Curve, ImageGrid, RhoCurve, Stage
from evaluation.table import Column, Measured, Table
from runtime.safe_files import read_json_lines

if TYPE_CHECKING:
    import torch

    from image_data.fake import FakeDataset
    from image_data.real import RealData

PER_CLASS = 8  # images a row in the grids


@dataclass(frozen=True)
class Found:
    """The newest finished artefact of each kind in a workspace (None: there is none)."""

    folders: Mapping[str, Path | None]
    problems: list[str] = field(default_factory=list)  # what of them is damaged, and left out

    @staticmethod
    def in_workspace(workspace: Path, **given: Path | None) -> Found:
        """Look at every `<kind>/latest`; `given` paths come first."""
        folders: dict[str, Path | None] = {}
        for kind, seal in SEAL.items():
            folder = given.get(kind) or workspace / kind / "latest"
            folders[kind] = folder.resolve() if (folder / seal).is_file() else None
        return Found(folders)

    def __getitem__(self, kind: str) -> Path | None:
        return self.folders[kind]


def label_names(space: Any, labels: np.ndarray) -> list[str]:
    """The text of each label: the class's name, or the value with its unit."""
    if space.kind == "classes":
        return [space.names[int(label)] for label in labels]
    return [f"{float(value):.0f} {space.unit}".strip() for value in np.asarray(labels).reshape(len(labels), -1)[:, 0]]


def picture_rows(labels: np.ndarray, per_label: int, order: np.ndarray | None = None) -> np.ndarray:
    """Rows of the first `per_label` images of each of up to ten labels (in the order given)."""
    order = np.arange(len(labels)) if order is None else order
    values = np.unique(labels)
    values = values[np.linspace(0, len(values) - 1, min(10, len(values))).round().astype(int)]
    return np.concatenate([order[labels[order] == value][:per_label] for value in values])


def grids(
    found: Found, data: RealData, device: torch.device, rho: float, per_class: int = PER_CLASS
) -> list[ImageGrid]:
    """Real, accepted, rejected, filtered-out and student images, a row a class."""
    space = data.label_space
    rows = picture_rows(data.train.labels, per_class)
    names = label_names(space, data.train.labels[rows])
    shown = [ImageGrid("Real", data.train.images(rows), names, "real", columns=per_class)]
    if found["fakes"] is not None:
        shown += _fake_grids(found, device, rho, per_class)
    if found["student"] is not None:
        from commands.reporting.measuring import draw_images

        images = draw_images(load_generator(found["student"], device), per_class, 0)
        names = label_names(space, images.labels)
        pixels = images.images(np.arange(len(images)))
        shown.append(ImageGrid("Student generator", pixels, names, "student", columns=per_class))
    return shown


def _fake_grids(found: Found, device: torch.device, rho: float, per_class: int) -> list[ImageGrid]:
    from image_data.fake import open_fakes

    if found["fakes"] is None:
        return []
    fakes = open_fakes(found["fakes"])
    space = fakes.label_space
    rows = picture_rows(fakes.labels, per_class)
    shown = [ImageGrid("Teacher, accepted", fakes.images(rows), label_names(space, fakes.labels[rows]), "accepted")]
    if found["teacher"] is not None and found["filter"] is not None:
        pixels, labels = rejected_images(fakes, teacher_behind(found["fakes"], found["teacher"], device), per_class)
        if len(pixels):
            shown.append(ImageGrid("Teacher, rejected", pixels, label_names(space, labels), "rejected"))
    if fakes.score_sets() and rho < 1:
        worst = np.argsort(-fakes.scores().error, kind="stable")
        rows = picture_rows(fakes.labels, per_class, worst)
        shown.append(
            ImageGrid("Filtered out", fakes.images(rows), label_names(space, fakes.labels[rows]), "filtered out")
        )
    return shown


def rejected_images(fakes: FakeDataset, teacher: Any, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The rejected candidates of lowest ratio of each label, generated again from the ledger's candidate numbers."""
    from layers.pixels import quantise
    from runtime.seeds import label_bits

    seed = int(fakes.manifest.content["settings"]["seed"])
    labels, numbers, ratios = [], [], []
    for unit in fakes.ledger():
        out = ~unit.accepted
        labels.append(unit.label[out])
        numbers.append(unit.k[out])
        ratios.append(unit.r[out])
    label, k, r = np.concatenate(labels), np.concatenate(numbers), np.concatenate(ratios)
    if not len(k):
        return np.zeros((0, *fakes.image_shape), dtype=np.uint8), label
    rows = picture_rows(label, per_class, np.argsort(r, kind="stable"))
    keys = np.stack([label_bits(label[rows]), k[rows]], axis=1)
    images = teacher.generate(teacher.latents(keys, seed), label[rows], keys, seed)
    return quantise(images).cpu().numpy(), label[rows]


def filters(
    found: Found, workspace: Path, data: RealData, device: torch.device, rho: float
) -> tuple[dict[str, Any], tuple[str, Any]]:
    """(the parts of `ReportData` that tell what the filters did, the report's first line with its tone)."""
    from commands.reporting.calibration import calibration_of, workspaces_of
    from commands.reporting.calibration_parts import filter_parts
    from evaluation.filter_effect import one_line

    if found["fakes"] is None:
        return {}, ("", "plain")
    known = calibration_of(found["fakes"], workspaces_of(found["fakes"], workspace))
    return filter_parts(known, data, device, rho), one_line(known.effects)


def stages(found: Found, data: RealData, rho: float) -> list[Stage]:
    """How many images came through each step."""
    from image_data.fake import open_fakes

    steps = [Stage("real images", f"{len(data.train):,}", f"{data.name}, training role")]
    if found["fakes"] is not None:
        fakes = open_fakes(found["fakes"])
        shards = fakes.manifest.shards
        drawn, passed = sum(entry.candidates for entry in shards), sum(entry.rows for entry in shards)
        rejects = fakes.manifest.content["needs_ratio"]
        share = f"{100 * passed / max(1, drawn):.0f} % pass the density ratio" if rejects else "none was rejected"
        steps.append(Stage("candidates", f"{drawn:,}", "drawn from the teacher"))
        steps.append(Stage("accepted fakes", f"{len(fakes):,}", share))
        if rho < 1 and fakes.score_sets():
            steps.append(Stage("kept for students", f"{int(len(fakes) * rho):,}", f"rho {rho:g}"))
    return steps


def quality(found: Found) -> dict[str, Any]:
    """The newest evaluation as parts of `ReportData`: its table, and how to read it."""
    rows = _read(found, "evaluation", "result.json")
    return {} if rows is None else {"quality": quality_table(rows), "metric_guide": metric_guide(rows)}


def costs(found: Found, device: torch.device) -> Table | None:
    """Size and speed of teacher and student generator."""
    kinds = {kind: folder for kind in ("teacher", "student") if (folder := found[kind]) is not None}
    measured = generator_costs({kind: load_generator(folder, device) for kind, folder in kinds.items()})
    return cost_table(measured) if measured else None


def rho_parts(found: Found, references: Mapping[str, float] | None = None) -> RhoCurve | None:
    """The curve of the newest rho search."""
    choice = _read(found, "rho", "choice.json")
    if choice is None:
        return None
    lines = [line for line in choice["lines"] if line["mean"] is not None]
    return RhoCurve(
        "validation error",
        [line["rho"] for line in lines],
        [line["mean"] for line in lines],
        [line["standard_error"] for line in lines],
        chosen=choice["rho"],
        references=dict(references or {}),
    )


def card_problems(found: Found) -> list[str]:
    """All that is to be said of the seals of what was read."""
    for kind, folder in found.folders.items():
        if folder is not None and SEAL[kind] == "card.json":  # the other files are checked as they are read
            seal_note(folder / SEAL[kind], found.problems, found.problems)
    return list(dict.fromkeys(found.problems))


def training_curves(found: Found) -> list[Curve]:
    """Losses of teacher and student generator over their steps."""
    shown = []
    for kind in ("teacher", "student"):
        folder = found[kind]
        path = folder / "stats.jsonl" if folder else None
        if path is None or not path.is_file():
            continue
        rows = [row for row in read_json_lines(path) if isinstance(row.get("step"), int)]
        names = [name for name in rows[0] if "loss" in name] if rows else []
        series = {
            name: ([row["step"] for row in rows if name in row], [row[name] for row in rows if name in row])
            for name in names
        }
        if series:
            shown.append(Curve(f"Training of the {kind}", "step", "loss", series))
    return shown


def measured(values: list[float]) -> Measured:
    """Mean and sample standard deviation."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Measured(float(np.mean(values)), spread)


def chosen_rho(found: Found) -> float | None:
    """The rho search's choice, where there was a search."""
    choice = _read(found, "rho", "choice.json")
    return None if choice is None else float(choice["rho"])


def _read(found: Found, kind: str, name: str) -> dict[str, Any] | None:
    folder = found[kind]
    return None if folder is None else readable(folder / name, found.problems)


def classifier_tables(workspace: Path, problems: list[str]) -> list[Table]:
    """One row for each finished `distill` of the workspace, with its protocol."""
    rows: list[list[Any]] = []
    unit = ""
    for path in sorted((workspace / "classifier").glob("*/result.json")):
        if path.parent.is_symlink():
            continue
        result = readable(path, problems)
        if result is None:
            continue
        protocol, test = result["protocol"], result["test"]
        unit = test["unit"] if test else unit
        error = Measured(test["value"], test["standard_error"]) if test else None
        name = f"{protocol['network']}, {protocol['train_on']}, {protocol['method']}"
        seen = str(result.get("seen", "not recorded")).removeprefix("test images: ")
        rows.append([name, protocol["rho"], protocol["images"], protocol["steps"], protocol["seed"], error, seen])
    if not rows:
        return []
    scale, shown = (1.0, unit) if unit else (100.0, "%")
    columns = [
        Column("student", numeric=False),
        Column("rho", decimals=2),
        Column("images", decimals=0),
        Column("steps", decimals=0),
        Column("seed", decimals=0),
        Column("test error", shown, decimals=2, scale=scale, better="lower"),
        Column("test images", numeric=False),
    ]
    return [Table("Students", columns, rows, caption="Error on the test images with its standard error over images.")]


def provenance_lines(made: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine and date as lines of text."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return {"date": made["started"], "machine": made["machine"], "Python": made["python"], "libraries": versions}


def command_lines(found: Found) -> list[str]:
    """The commands that made the artefacts."""
    lines = []
    for folder in found.folders.values():
        if folder is not None and (folder / COMMAND_FILE).is_file():
            record = readable(folder / COMMAND_FILE, found.problems)
            line = record["provenance"]["command_line"] if record is not None else None
            lines += [f"python {line}"] if line is not None else []
    return list(dict.fromkeys(lines))

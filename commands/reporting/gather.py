"""From a workspace's artefacts to the parts of a report: pictures, filter evidence, quality, costs, the rho curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.support.builders import load_density_ratio, load_generator
from commands.support.record import COMMAND_FILE
from commands.support.seals import readable, seal_note
from commands.support.teachers import teacher_behind
from commands.support.workspace import SEAL
from evaluation.cost import cost_table, generator_costs
from evaluation.quality import metric_guide, metric_plots, quality_table
from evaluation.report import Curve, ImageGrid, RhoCurve, Stage, grid_of
from evaluation.report.grids import PER_LABEL, fake_grids
from evaluation.table import Column, Measured, Table
from runtime.safe_files import read_json_lines

if TYPE_CHECKING:
    import torch

    from image_data.real import RealData


@dataclass(frozen=True)
class Artefacts:
    """The newest finished artefact of each kind in a workspace (None: there is none)."""

    folders: Mapping[str, Path | None]
    problems: list[str] = field(default_factory=list)  # what of them is damaged, and left out

    @staticmethod
    def in_workspace(workspace: Path, **given: Path | None) -> Artefacts:
        """Look at every `<kind>/latest`; `given` paths come first."""
        folders: dict[str, Path | None] = {}
        for kind, seal in SEAL.items():
            folder = given.get(kind) or workspace / kind / "latest"
            folders[kind] = folder.resolve() if (folder / seal).is_file() else None
        return Artefacts(folders)

    def __getitem__(self, kind: str) -> Path | None:
        return self.folders[kind]


def parts(
    artefacts: Artefacts, workspace: Path, data: RealData, device: torch.device, rho: float
) -> tuple[dict[str, Any], tuple[str, Any]]:
    """(parts of `ReportData` that every report shows, its first line with its tone, about the filters)."""
    evidence, first_line = filters(artefacts, workspace, data, device, rho)
    shown = {
        "grids": grids(artefacts, data, device, rho),
        **evidence,
        **quality(artefacts),
        "costs": costs(artefacts, device),
        "curves": training_curves(artefacts),
        "rho": rho_parts(artefacts),
    }
    return shown, first_line


def grids(artefacts: Artefacts, data: RealData, device: torch.device, rho: float) -> list[ImageGrid]:
    """Real, accepted, rejected, filtered-out and student images, a row a label."""
    from evaluation.generated import draw_images
    from image_data.fake import open_fakes

    shown = [grid_of(data.train, data.label_space, "Real", "real")]
    if artefacts["fakes"] is not None:
        teacher = None if artefacts["filter"] is None else artefacts["teacher"]
        drawing = None if teacher is None else teacher_behind(artefacts["fakes"], teacher, device)
        shown += fake_grids(open_fakes(artefacts["fakes"]), drawing, rho)
    if artefacts["student"] is not None:
        images = draw_images(load_generator(artefacts["student"], device), PER_LABEL, 0)
        shown.append(grid_of(images, data.label_space, "Student generator", "student"))
    return shown


def filters(
    artefacts: Artefacts, workspace: Path, data: RealData, device: torch.device, rho: float
) -> tuple[dict[str, Any], tuple[str, Any]]:
    """(the parts of `ReportData` that tell what the filters did, the report's first line with its tone)."""
    from commands.reporting.calibration import calibration_of, workspaces_of
    from evaluation.filter_effect import one_line
    from evaluation.report.calibration_parts import filter_parts

    if artefacts["fakes"] is None:
        return {}, ("", "plain")
    known = calibration_of(artefacts["fakes"], workspaces_of(artefacts["fakes"], workspace))
    ratio = None if known.filter is None else load_density_ratio(known.filter, device)
    return filter_parts(known, data, ratio, rho), one_line(known.effects)


def stages(artefacts: Artefacts, data: RealData, rho: float) -> list[Stage]:
    """How many images came through each step."""
    from image_data.fake import open_fakes

    steps = [Stage("real images", f"{len(data.train):,}", f"{data.name}, training role")]
    if artefacts["fakes"] is not None:
        fakes = open_fakes(artefacts["fakes"])
        shards = fakes.manifest.shards
        drawn, passed = sum(entry.candidates for entry in shards), sum(entry.rows for entry in shards)
        rejects = fakes.manifest.content["needs_ratio"]
        share = f"{100 * passed / max(1, drawn):.0f} % pass the density ratio" if rejects else "none was rejected"
        steps.append(Stage("candidates", f"{drawn:,}", "drawn from the teacher"))
        steps.append(Stage("accepted fakes", f"{len(fakes):,}", share))
        if rho < 1 and fakes.score_sets():
            steps.append(Stage("kept for students", f"{int(len(fakes) * rho):,}", f"rho {rho:g}"))
    return steps


def quality(artefacts: Artefacts) -> dict[str, Any]:
    """The newest evaluation as parts of `ReportData`: its table, how to read it, and the metrics with error bars."""
    rows = _read(artefacts, "evaluation", "result.json")
    if rows is None:
        return {}
    return {"quality": quality_table(rows), "metric_guide": metric_guide(rows), "metric_plots": metric_plots(rows)}


def costs(artefacts: Artefacts, device: torch.device) -> Table | None:
    """Size and speed of teacher and student generator."""
    kinds = {kind: folder for kind in ("teacher", "student") if (folder := artefacts[kind]) is not None}
    measured = generator_costs({kind: load_generator(folder, device) for kind, folder in kinds.items()})
    return cost_table(measured) if measured else None


def rho_parts(artefacts: Artefacts) -> RhoCurve | None:
    """The curve of the newest rho search."""
    choice = _read(artefacts, "rho", "choice.json")
    return None if choice is None else RhoCurve.of_choice(choice)


def card_problems(artefacts: Artefacts) -> list[str]:
    """All that is to be said of the seals of what was read."""
    for kind, folder in artefacts.folders.items():
        if folder is not None and SEAL[kind] == "card.json":  # the other files are checked as they are read
            seal_note(folder / SEAL[kind], artefacts.problems, artefacts.problems)
    return list(dict.fromkeys(artefacts.problems))


def training_curves(artefacts: Artefacts) -> list[Curve]:
    """Losses of teacher and student generator over their steps."""
    shown = []
    for kind in ("teacher", "student"):
        folder = artefacts[kind]
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


def chosen_rho(artefacts: Artefacts) -> float | None:
    """The rho search's choice, where there was a search."""
    choice = _read(artefacts, "rho", "choice.json")
    return None if choice is None else float(choice["rho"])


def _read(artefacts: Artefacts, kind: str, name: str) -> dict[str, Any] | None:
    folder = artefacts[kind]
    return None if folder is None else readable(folder / name, artefacts.problems)


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


def provenance_lines(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine and date as lines of text."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    return {
        "date": environment["started"],
        "machine": environment["machine"],
        "Python": environment["python"],
        "libraries": versions,
    }


def command_lines(artefacts: Artefacts) -> list[str]:
    """The command line of each artefact."""
    lines = []
    for folder in artefacts.folders.values():
        if folder is not None and (folder / COMMAND_FILE).is_file():
            record = readable(folder / COMMAND_FILE, artefacts.problems)
            line = record["provenance"]["command_line"] if record is not None else None
            lines += [f"python {line}"] if line is not None else []
    return list(dict.fromkeys(lines))

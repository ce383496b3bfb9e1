"""The demo's work, cut into tasks that run beside each other; each only calls the ordinary commands.

A cell is one (setting, fold).  The folds' test images are disjoint, so three folds test on 1,491 images.

* few labels: teacher GAN, filter, predictor and students all see the same 100 labelled images.
* black box: the GAN comes from someone who has 1,000 images; the student's side has the 100 of the other setting, or
  none at all.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.support.record import read_record
from commands.support.workspace import call
from runtime.errors import UserError
from runtime.safe_files import read_json_lines, read_sealed_json

LABELS_PER_CLASS = 10
FEW, BLACK_BOX = "few-labels", "black-box"

NOKD, BLKD, RHO_ONE, RHO_CHOSEN, WITH_BLKD, FAKES_ONLY, FAKES_BLKD = (
    "NOKD",
    "BLKD",
    "cGAN-KD, rho 1",
    "cGAN-KD, rho chosen",
    "cGAN-KD + BLKD, rho chosen",
    "fakes only, rho chosen",
    "fakes only + BLKD, rho chosen",
)
ROWS = (NOKD, BLKD, RHO_ONE, RHO_CHOSEN, WITH_BLKD, FAKES_ONLY, FAKES_BLKD)
NO_REAL, NO_REAL_BLKD = "no real image: fakes only", "no real image: fakes + BLKD"


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of the demo.  All classifiers of the table train for the same number of steps."""

    root: Path
    folds: int = 3
    teacher_steps: int = 0  # 0: the default of train-teacher
    nfake_per_class: int = 500
    classifier_steps: int = 700
    real_share: float = 0.33  # of mixed training sets; published cGAN-KD has 50,000 real images for 100,000 fakes
    network: str = "vgg8"
    width: float = 0.125  # of the students
    teacher_network: str = "vgg8_quarter"
    rhos: tuple[float, ...] = (0.5, 0.75, 1.0)
    student_steps: int = 0

    def cell(self, setting: str, fold: int) -> Path:
        """The workspace of one cell."""
        return self.root / setting / f"fold{fold}"


@dataclass(frozen=True)
class Cell:
    """One task: a setting and a fold; fold 0 of the black box also makes the product that the report shows."""

    plan: DemoPlan
    setting: str
    fold: int

    @property
    def workspace(self) -> Path:
        return self.plan.cell(self.setting, self.fold)

    def row(self, name: str) -> Path:
        """Where the student of one row of the table is trained."""
        return self.workspace / "rows" / re.sub(r"[^a-z0-9]+", "-", name.lower())

    def shared(self, few: bool = True) -> dict[str, Any]:
        """Options that all commands of this cell have in common."""
        common: dict[str, Any] = {"workspace": self.workspace, "fold": self.fold, "seed": self.fold}
        if few:
            common |= {"real_per_class": LABELS_PER_CLASS, "data_seed": self.fold}
        return common


def tasks(plan: DemoPlan) -> list[Cell]:
    """All cells, the longest first."""
    return [Cell(plan, setting, fold) for fold in range(plan.folds) for setting in (BLACK_BOX, FEW)]


def run_cell(cell: Cell) -> None:
    """Everything of one cell; whatever is finished is passed over."""
    os.environ["RETORT_PROGRESS"] = "off"  # the demo itself shows the progress of all cells
    plan = cell.plan
    steps = {"steps": plan.teacher_steps} if plan.teacher_steps else {}
    call("train-teacher", **cell.shared(few=cell.setting == FEW), **steps)
    call("train-classifier", **cell.shared(), network=plan.teacher_network, steps=plan.classifier_steps)
    call("fit-filter", **cell.shared())
    sampling = {"workspace": cell.workspace, "seed": cell.fold, "nfake_per_class": plan.nfake_per_class}
    call("sample", **sampling, rho=min(plan.rhos))
    shared = {name: value for name, value in cell.shared().items() if name != "seed"}  # its seeds are those searched
    best = call("search-rho", **shared, **_searched(plan))["rho"]
    _rows(cell, best)
    if cell.setting == BLACK_BOX:
        _without_real_images(cell, sampling)
        if cell.fold == 0:
            _product(cell)


def _student(plan: DemoPlan) -> dict[str, Any]:
    return {
        "network": {"name": plan.network, "width": plan.width},
        "steps": plan.classifier_steps,
        "nfake_per_class": plan.nfake_per_class,
        "real_share": plan.real_share,
    }


def _searched(plan: DemoPlan) -> dict[str, Any]:
    options = _student(plan)
    return {"networks": options.pop("network"), "seeds": (0, 1), "rhos": plan.rhos, **options}


def _rows(cell: Cell, rho: float) -> None:
    """The rows of the table of methods."""
    student = {**cell.shared(), **_student(cell.plan)}
    if cell.setting == FEW:  # the black box setting shares these two: they see no fake
        call("distill", **student, out=cell.row(NOKD), train_on="real", method="none")
        call("distill", **student, out=cell.row(BLKD), train_on="real", method="blkd")
    call("distill", **student, out=cell.row(RHO_ONE), train_on="mixed", method="none", rho=1.0)
    call("distill", **student, out=cell.row(RHO_CHOSEN), train_on="mixed", method="none", rho=rho)
    call("distill", **student, out=cell.row(FAKES_ONLY), train_on="fakes", method="none", rho=rho)
    soft = {"method": "blkd", "predictor": _soft_teacher(cell, rho), "rho": rho}
    call("distill", **student, out=cell.row(WITH_BLKD), train_on="mixed", **soft)
    call("distill", **student, out=cell.row(FAKES_BLKD), train_on="fakes", **soft)


def _soft_teacher(cell: Cell, rho: float) -> Path:
    """Whose soft labels a row with fakes learns from: the predictor, or the same network trained on real and fake.

    The one of lower cross entropy on the validation images.
    """
    mixed = cell.workspace / "teacher-of-soft-labels"
    large = {**_student(cell.plan), "network": cell.plan.teacher_network}
    call("distill", **cell.shared(), **large, out=mixed, train_on="mixed", method="none", rho=rho, test=False)
    predictor = (cell.workspace / "predictor" / "latest").resolve()
    cross_entropy = {
        folder: read_sealed_json(folder / "card.json")["result"]["val_cross_entropy"] for folder in (predictor, mixed)
    }
    return min(cross_entropy, key=lambda folder: cross_entropy[folder])


def _without_real_images(cell: Cell, sampling: dict[str, Any]) -> None:
    """Nothing but the teacher GAN: no filter, no predictor; the soft labels come from a network trained on fakes."""
    plan = cell.plan
    fakes = cell.workspace / "unfiltered"
    call("sample", **sampling, filter="none", predictor="none", out=fakes)
    common = {**cell.shared(), **_student(plan), "fakes": fakes, "rho": 1.0, "train_on": "fakes"}
    call("distill", **common, method="none", out=cell.row(NO_REAL))
    teacher = cell.workspace / "predictor-from-fakes"
    large = {"network": plan.teacher_network}
    call("distill", **{**common, **large}, method="none", out=teacher, test=False)
    call("distill", **common, method="blkd", predictor=teacher, out=cell.row(NO_REAL_BLKD))


def _product(cell: Cell) -> None:
    """The path as its owner goes it, with all 1,000 images: filter, 10,000 fakes, a light student generator."""
    plan = cell.plan
    teacher = (cell.workspace / "teacher" / "latest").resolve()
    owner = {"workspace": plan.root / "product", "fold": cell.fold, "seed": cell.fold}
    call("train-classifier", **owner, network=plan.teacher_network, steps=plan.classifier_steps)
    call("fit-filter", **owner, teacher=teacher)
    sampling = {"workspace": owner["workspace"], "seed": cell.fold, "nfake_per_class": plan.nfake_per_class}
    call("sample", **sampling, rho=min(plan.rhos), teacher=teacher)
    steps = {"steps": plan.student_steps} if plan.student_steps else {}
    white = {"white_box": True, "white_box_losses": ("kernel_alignment=0.02",)}
    call("train-student", **owner, **steps, **white, teacher=teacher)
    call("evaluate", **owner, teacher=teacher)


_WEIGHT = {
    "teacher": 60,
    "filter": 15,
    "predictor": 6,
    "fakes": 12,
    "rho": 14,
    "student": 70,
    "evaluation": 20,
    "rows": 3,
}


def work_total(plan: DemoPlan) -> int:
    """All of the demo's work, in about seconds of one core."""
    cell = sum(_WEIGHT[kind] for kind in ("teacher", "filter", "predictor", "fakes", "rho"))
    rows = 2 * _WEIGHT["rows"] * plan.folds * 7
    product = sum(_WEIGHT[kind] for kind in ("filter", "predictor", "fakes", "student", "evaluation"))
    return 2 * plan.folds * cell + rows + product


def work_done(plan: DemoPlan) -> int:
    """What is finished, and the part that the running trainings have behind them."""
    done = 0.0
    for kind, weight in _WEIGHT.items():
        # Never `**`: it walks into checkpoints, which come and go under their temporary names.
        records = [*plan.root.glob(f"*/{kind}/*/command.json"), *plan.root.glob(f"*/fold*/{kind}/*/command.json")]
        folders = [record.parent for record in records if not record.parent.is_symlink()]
        done += weight * sum(_part_done(folder) for folder in folders)
    return int(done)


def _part_done(folder: Path) -> float:
    if any((folder / seal).is_file() for seal in ("card.json", "manifest.json", "result.json", "choice.yaml")):
        return 1.0
    try:
        last = read_json_lines(folder / "stats.jsonl")[-1]
        return min(0.99, last["step"] / read_record(folder)["content"]["options"]["steps"])
    except (UserError, TypeError, KeyError, IndexError):
        return 0.0

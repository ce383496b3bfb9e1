"""The demo's work: two comparisons, of few labels and of a black box, and the product that the report shows.

Each is an ordinary command, so that processes share the cells and a killed demo continues.  A seed of a comparison is a
fold: labelled images, teacher, filter, predictor and students of its own, and test images that no other fold has.

* few labels: teacher GAN, filter, predictor and students all see the same 100 labelled images.
* black box: the GAN comes from someone who has 1,000 images; the student's side has 100, or none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.support.record import read_record
from commands.support.workspace import call
from runtime.claims import try_claim
from runtime.errors import UserError
from runtime.safe_files import read_json_lines

LABELS_PER_CLASS = 10
FEW, BLACK_BOX = "few-labels", "black-box"
REAL, ALL_FAKES, MIXED, FAKES, NO_REAL = (
    "real",
    "real + fakes, rho 1",
    "real + fakes, rho searched",
    "fakes alone, rho searched",
    "fakes alone, no filter, no real image",
)


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of the demo.  All classifiers of a table train for the same number of steps."""

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
    search_seeds: int = 4
    student_steps: int = 0

    def parts(self, setting: str, fold: int) -> Path:
        """The workspace of what a fold makes for itself."""
        return self.root / setting / "parts" / f"seed{fold}"


def comparison(plan: DemoPlan, setting: str) -> dict[str, Any]:
    """The options of `compare`; docs and report show them."""
    student = {"name": plan.network, "width": plan.width}
    common = {"steps": plan.classifier_steps, "nfake_per_class": plan.nfake_per_class, "real_share": plan.real_share}
    search = {"networks": student, "seeds": tuple(range(plan.search_seeds)), "rhos": plan.rhos, **common}
    teacher = {"steps": plan.teacher_steps} if plan.teacher_steps else {}
    larger = {"network": plan.teacher_network}
    sets: dict[str, dict[str, Any]] = {
        REAL: {"train_on": "real"},
        ALL_FAKES: {"train_on": "mixed", "rho": 1.0},
        MIXED: {"train_on": "mixed", "rho": "searched", "teacher": larger},
        FAKES: {"train_on": "fakes", "rho": "searched", "teacher": MIXED},
    }
    if setting == BLACK_BOX:
        alone = {"filter": "none", "predictor": "none", "rho": 1.0}
        sets[NO_REAL] = {"train_on": "fakes", "rho": 1.0, "sample": alone, "teacher": larger}
    return {
        "methods": ("none", "blkd"),
        "networks": student,
        "sets": sets,
        "seeds": tuple(range(plan.folds)),
        "real_per_class": LABELS_PER_CLASS,
        "parts": {
            "train-teacher": teacher if setting == FEW else {**teacher, "real_per_class": None},
            "train-classifier": {**larger, "steps": plan.classifier_steps},
            "fit-filter": {},
            "sample": {"nfake_per_class": plan.nfake_per_class, "rho": min(plan.rhos)},
            "search-rho": search,
        },
        **common,
    }


@dataclass(frozen=True)
class Worker:
    """One process of the demo: it begins with one comparison, and helps with the other."""

    plan: DemoPlan
    number: int

    def run(self) -> None:
        """Until both comparisons and the product are finished; whatever is finished is passed over."""
        os.environ["RETORT_PROGRESS"] = "off"  # the demo itself shows the progress of all
        plan = self.plan
        first, other = (BLACK_BOX, FEW) if self.number % 2 == 0 else (FEW, BLACK_BOX)
        call("compare", out=plan.root / first, **comparison(plan, first))
        if (plan.parts(BLACK_BOX, 0) / "teacher" / "latest" / "card.json").is_file():
            self._product()
        call("compare", out=plan.root / other, **comparison(plan, other))
        self._product()

    def _product(self) -> None:
        """The path as its owner goes it, with all 1,000 images: filter, fakes, a light student generator; by one."""
        if (claim := try_claim(self.plan.root / "product-claim")) is None:
            return
        with claim:
            make_product(self.plan)


def make_product(plan: DemoPlan) -> None:
    """What the report shows, in a workspace of its own."""
    teacher = (plan.parts(BLACK_BOX, 0) / "teacher" / "latest").resolve()
    owner = {"workspace": plan.root / "product", "fold": 0, "seed": 0}
    call("train-classifier", **owner, network=plan.teacher_network, steps=plan.classifier_steps)
    call("fit-filter", **owner, teacher=teacher)
    sampling = {"workspace": owner["workspace"], "seed": 0, "nfake_per_class": plan.nfake_per_class}
    call("sample", **sampling, rho=min(plan.rhos), teacher=teacher)
    steps = {"steps": plan.student_steps} if plan.student_steps else {}
    white = {"white_box": True, "white_box_losses": ("kernel_alignment=0.02",)}
    call("train-student", **owner, **steps, **white, teacher=teacher)
    call("evaluate", **owner, teacher=teacher)


# In about seconds of one core; a cell is one row of a comparison at one fold.
_WEIGHTS = {"teacher": 150, "filter": 20, "predictor": 15, "fakes": 12, "rho": 50, "student": 120, "evaluation": 40}
_OF_A_FOLD = ("teacher", "filter", "predictor", "fakes", "rho")
_OF_THE_PRODUCT = ("filter", "predictor", "fakes", "student", "evaluation")
_CELL, _OWN_TEACHER = 8, 35


def _trainings(plan: DemoPlan) -> tuple[int, int]:
    """(cells, teachers of sets) of both comparisons."""
    sets = [one for setting in (FEW, BLACK_BOX) for one in comparison(plan, setting)["sets"].values()]
    own = sum(isinstance(one.get("teacher"), dict) for one in sets)
    return 2 * len(sets) * plan.folds, own * plan.folds


def work_total(plan: DemoPlan) -> int:
    """All of the demo's work."""
    cells, teachers = _trainings(plan)
    folds = 2 * plan.folds * sum(_WEIGHTS[kind] for kind in _OF_A_FOLD)
    return folds + _CELL * cells + _OWN_TEACHER * teachers + sum(_WEIGHTS[kind] for kind in _OF_THE_PRODUCT)


def work_done(plan: DemoPlan) -> int:
    """What is finished, and the part that the running trainings have behind them."""
    done = 0.0
    # Never `**`: it walks into checkpoints, which come and go under their temporary names.
    for kind, weight in _WEIGHTS.items():
        homes = [*plan.root.glob(f"*/parts/seed*/{kind}/*/"), *plan.root.glob(f"product/{kind}/*/")]
        done += weight * sum(_part_done(folder) for folder in homes)
    done += _OWN_TEACHER * sum(map(_part_done, plan.root.glob("*/parts/seed*/teachers/*/")))
    done += _CELL * sum(map(_part_done, plan.root.glob("*/cells/*/*/*/seed*/training/")))
    return int(done)


def _part_done(folder: Path) -> float:
    if folder.is_symlink():
        return 0.0
    if any((folder / seal).is_file() for seal in ("card.json", "manifest.json", "result.json", "choice.yaml")):
        return 1.0
    try:
        last = read_json_lines(folder / "stats.jsonl")[-1]
        return min(0.99, last["step"] / read_record(folder)["content"]["options"]["steps"])
    except (UserError, TypeError, KeyError, IndexError):
        return 0.0

"""What one seed of a comparison makes for itself, in a workspace of its own: parts, and what a set has alone.

teacher, predictor, filter, fakes and rho by their ordinary commands (`parts`); then for a set with `sample` a pool of
fakes, and for a set with `teacher` the larger network whose soft labels it gets.  Whatever is finished is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.support.compared import MADE, SEARCHED, check_options, distill_options, folder_name
from commands.support.workspace import EMBEDDED, call
from runtime.errors import UserError
from training.methods import METHODS

PARTS_FILE = "parts.json"
_NONE = METHODS.choose("none")


class SeedParts:
    """The parts of one seed.  options: compare's; common: distill's, equal for all cells."""

    def __init__(self, seed: int, folder: Path, options: Any, common: Mapping[str, Any]) -> None:
        self.seed, self.workspace = seed, folder / "parts" / f"seed{seed}"
        self._options, self._common = options, common

    def given(self) -> dict[str, Any]:
        """The options that name them and their real images."""
        common = {"workspace": str(self.workspace), "data": self._options.data, "data_seed": self.seed}
        if self._options.data in EMBEDDED:
            common["fold"] = self.seed
        if self._options.real_per_class is not None:
            common["real_per_class"] = self._options.real_per_class
        return common

    def place(self) -> Path:
        """Where processes claim them."""
        return self.workspace

    def is_finished(self) -> bool:
        """Whether the last one is there."""
        return (self.workspace / PARTS_FILE).is_file()

    def make(self) -> None:
        """Each by its ordinary command."""
        from runtime.progress import silenced
        from runtime.safe_files import write_sealed_json

        left: dict[str, Any] = {"parts": list(self._options.parts), "rho": None}
        with silenced():
            for command, given in self._options.parts.items():
                result = call(command, **self._with_images({**self._shared(command), **given}))
                left["rho"] = result.get("rho") if command == "search-rho" else left["rho"]
            for name, training_set in self._options.sets.items():
                if "sample" in training_set:
                    call("sample", **{**self._shared("sample"), **pool_options(self._options, training_set)},
                         out=self._own("pools", name))  # fmt: skip
                if isinstance(training_set.get("teacher"), Mapping):
                    given = {**self._common, **self.given(), **self.settled(name, left["rho"]), "seed": self.seed}
                    call("distill", **teacher_options(given, training_set), out=self._own("teachers", name))
        write_sealed_json(self.workspace / PARTS_FILE, left)

    def settled(self, name: str, rho: float | None = None) -> dict[str, Any]:
        """A set's options of distill, with its own pool and teacher and the rho that was searched.

        rho: the searched one, while the parts are being made.
        """
        from runtime.safe_files import read_sealed_json

        training_set = self._options.sets[name]
        options = {key: value for key, value in training_set.items() if key not in MADE}
        if "sample" in training_set:
            options["fakes"] = str(self._own("pools", name))
        if "teacher" in training_set:
            whose = training_set["teacher"]
            options["predictor"] = str(self._own("teachers", whose if isinstance(whose, str) else name))
        if options.get("rho") == SEARCHED:
            options["rho"] = rho or read_sealed_json(self.workspace / PARTS_FILE, _REMEDY)["rho"]
        return options

    @staticmethod
    def _with_images(options: dict[str, Any]) -> dict[str, Any]:
        """Without the seed of a draw where all images are taken: it would be another artefact for nothing."""
        all_images = options.get("real_per_class") is None
        return {name: value for name, value in options.items() if not (all_images and name == "data_seed")}

    def _shared(self, command: str) -> dict[str, Any]:
        common = {"workspace": str(self.workspace)} if command == "sample" else self.given()
        return common if command == "search-rho" else {**common, "seed": self.seed}

    def _own(self, kind: str, name: str) -> Path:
        return self.workspace / kind / folder_name(name)


_REMEDY = "remove it, and the comparison looks at its parts again"


def pool_options(options: Any, training_set: Mapping[str, Any]) -> dict[str, Any]:
    """sample's options of a set's own pool: over those of the part."""
    return {**options.parts.get("sample", {}), **training_set["sample"]}


def teacher_options(given: Mapping[str, Any], training_set: Mapping[str, Any]) -> dict[str, Any]:
    """distill's options of a set's own teacher: trained on the set's labels, never tested."""
    options = distill_options(given, {}, _NONE) | {"test": False}
    own = {name: value for name, value in options.items() if name not in {"init_from", "predictor"}}
    return own | training_set["teacher"]


def check_sets(options: Any, common: Mapping[str, Any]) -> None:
    """UserError, before any work, for what a set asks of parts that are not made, or that a command would refuse."""
    for name, training_set in options.sets.items():
        where = f"--sets {name}"
        asked = {"sample": "sample"} if "sample" in training_set else {}
        asked |= {f"rho: {SEARCHED}": "search-rho"} if training_set.get("rho") == SEARCHED else {}
        asked |= {"teacher": "train-classifier"} if "teacher" in training_set and not options.parts else {}
        for key, part in asked.items():
            if part not in options.parts:
                raise UserError(f"{where}: {key} asks for a part that no seed makes; add {part} to --parts.")
        if "sample" in training_set:
            check_options("sample", pool_options(options, training_set), f"{where}, sample")
        if isinstance(training_set.get("teacher"), Mapping):
            check_options("distill", teacher_options(common, training_set), f"{where}, teacher")

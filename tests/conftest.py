"""What all tests share: one thread, silent progress, and one small workspace that the command tests work on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RETORT_PROGRESS"] = "off"

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# A script's background job has Ctrl-C ignored, and so have its children, unless Python takes the signal back here.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {  # options that make each command take about a second
    "train-teacher": "--steps 30 --batch-size 16 --width 4 --discriminator-width 4 --standing-batches 4",
    "train-classifier": "--steps 40 --network resnet8 --width 0.5",
    "fit-filter": "--extractor-steps 20 --ratio-steps 30 --fakes-at-least 500 --extractor-width 4",
    "sample": "--nfake-per-class 40 --rho 0.5 --block-size 64 --pilot-candidates 64",
    "train-student": "--steps 20 --batch-size 16 --base-width 4 --discriminator-width 4 --standing-batches 4",
    "distill": "--steps 30 --width 0.5 --network resnet8",
    "search-rho": "--steps 20 --width 0.5 --rhos 0.5,1.0 --seeds 0",
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draws that a test makes without naming a seed are the same in every run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put each test's group into its node id, where `--dist loadgroup` looks for it.

    pytest-xdist 3.8 writes it into `_nodeid`, which pytest 9.2 no longer reads: without this, groups have no effect.
    Tests without a group whose file has a fixture of its own are a group, so that the fixture is made once.
    """
    sharing = {item.path for item in items if _shares_a_fixture(item)}
    for item in items if getattr(config.option, "loadgroup", False) else []:
        mark = item.get_closest_marker("xdist_group")
        group = mark.args[0] if mark else item.nodeid.partition("::")[0] if item.path in sharing else None
        if group is not None and "@" not in item.nodeid.rpartition("]")[2]:
            item._id = type(item.id).parse(f"{item.nodeid}@{group}")


def _shares_a_fixture(item: pytest.Item) -> bool:
    fixtures = getattr(item, "_fixtureinfo", None)
    used = fixtures.name2fixturedefs.values() if fixtures and not item.get_closest_marker("xdist_group") else ()
    return any(versions[-1].scope == "module" for versions in used)


class Workspace:
    """A workspace and a way to type commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def type(self, command: str, text: str = "", tiny: bool = True) -> int:
        """Run `cli.py COMMAND TEXT` in this process with the tiny sizes; returns the exit code."""
        import cli

        words = [command, *(TINY.get(command, "").split() if tiny else []), "--workspace", str(self.folder)]
        return cli.main([*words, *text.split()])

    def json(self, capsys: pytest.CaptureFixture, command: str, text: str = "", tiny: bool = True) -> dict:
        """The same with --json; returns the object printed on stdout."""
        capsys.readouterr()
        code = self.type(command, f"{text} --json", tiny)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return json.loads(shown.out)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Teacher, predictor, filter and fakes of the tiny sizes, made by the commands themselves."""
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    for command in ("train-teacher", "train-classifier", "fit-filter", "sample"):
        assert made.type(command) == 0, command
    return made
